import pytest
import torch
from safetensors.torch import load_file, save_file
from training_data import completion_rows, preference_rows

from posttrain.config import LoraConfig, RewardModelConfig, SFTConfig
from posttrain.train import saving
from posttrain.train.errors import TrainError
from posttrain.train.reward_model import train_reward_model
from posttrain.train.sft import train_sft

SMALL = {"learning_rate": 1e-3, "max_steps": 2, "global_batch_size": 4}


def save_with(change):
    """Save as always, then let `change` spoil what is on disk."""
    whole = saving.save_model

    def save(model, tokenizer, out_dir):
        whole(model, tokenizer, out_dir)
        path = out_dir / "model.safetensors"
        weights = load_file(path)
        change(weights)
        save_file(weights, path, metadata={"format": "pt"})

    return save


def shift(weights):
    weights["model.norm.weight"] += 1e-3


def leave_out(weights):
    del weights["model.norm.weight"]  # 32 numbers of 4 bytes


def empty(weights):
    weights["model.norm.weight"] = torch.zeros(0)


SPOILED = [
    (shift, "gives other outputs than the trained one"),
    (leave_out, r"its weights are ([\d,]+) bytes, and the model in memory has"),
    (empty, "the tensors model.norm.weight are empty"),
]


@pytest.mark.parametrize(("change", "message"), SPOILED)
def test_a_folder_that_is_not_the_trained_model_is_refused(change, message, tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "save_model", save_with(change))
    config = SFTConfig(**SMALL, checkpoint_steps=2)
    with pytest.raises(TrainError, match=message):
        train_sft(tiny_model_dir, completion_rows(8), tmp_path, config, seed=0)
    assert (tmp_path / "checkpoints" / "checkpoint-2").is_dir()
    monkeypatch.undo()
    # The steps are made: the same command saves again.
    assert train_sft(tiny_model_dir, completion_rows(8), tmp_path, config, seed=0)["resumed_from"] == 2
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)])
def test_reward_models_are_read_back_too(lora, tiny_model_dir, tmp_path, monkeypatch):
    def shift_head(weights):
        weights["score.weight"] += 1e-3

    config = RewardModelConfig(**SMALL, lora=lora)
    assert train_reward_model(tiny_model_dir, preference_rows(8), tmp_path / "good", config, seed=0)["steps"] == 2
    monkeypatch.setattr(saving, "save_model", save_with(shift_head))
    with pytest.raises(TrainError, match="gives other outputs than the trained one"):
        train_reward_model(tiny_model_dir, preference_rows(8), tmp_path / "bad", config, seed=0)
