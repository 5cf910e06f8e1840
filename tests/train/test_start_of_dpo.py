"""Before its first step DPO's policy is its reference: rewards 0, loss ln 2."""

import json
import math

import pytest
import torch
from training_data import completion_rows, preference_rows

from posttrain.config import DPOConfig, LoraConfig, SFTConfig
from posttrain.core.chat import encode_example, load_tokenizer
from posttrain.core.models import load_causal_lm
from posttrain.train.dpo import DPOTrainer, reference_kl, train_dpo
from posttrain.train.errors import TrainError
from posttrain.train.sft import train_sft

CONFIG = {"learning_rate": 1e-3, "max_steps": 2, "global_batch_size": 8, "logging_steps": 1, "nll_weight": 0.0}


@pytest.fixture(scope="module")
def sft_with_adapter(tiny_model_dir, tmp_path_factory):
    """A base and an SFT adapter that changes it, in one folder of adapters."""
    folder = tmp_path_factory.mktemp("sft")
    config = SFTConfig(learning_rate=1e-2, max_steps=5, global_batch_size=8, lora=LoraConfig(rank=4))
    train_sft(tiny_model_dir, completion_rows(16), folder, config, seed=0)
    return folder / "adapter"


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4), LoraConfig(rank=4, dropout=0.2)])
@pytest.mark.parametrize("start", ["base", "adapter"])
@pytest.mark.parametrize("device_batch_size", [8, 3 - 1])
def test_first_loss_is_ln2_and_rewards_are_zero(
    lora, start, device_batch_size, tiny_model_dir, sft_with_adapter, tmp_path, metrics_of
):
    model_dir = tiny_model_dir if start == "base" else sft_with_adapter
    config = DPOConfig(**CONFIG, lora=lora, device_batch_size=device_batch_size)
    train_dpo(model_dir, preference_rows(11), tmp_path, config, seed=0)
    first = metrics_of(tmp_path)[0]
    # Dropout in new adapters has no effect while their second matrix is zero.
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    for name in ("chosen", "rejected", "margins"):
        assert abs(first[f"rewards/{name}"]) <= 1e-5


def test_reference_is_the_sft_policy_not_the_base(tiny_model_dir, sft_with_adapter, tmp_path, metrics_of):
    rows = preference_rows(8)
    for name, folder in (("base", tiny_model_dir), ("sft", sft_with_adapter)):
        train_dpo(folder, rows, tmp_path / name, DPOConfig(**CONFIG, mask_format_tokens=False), seed=0)
        tokenizer, model = load_tokenizer(folder), load_causal_lm(folder)
        expected = []
        for row in rows:
            encoded = encode_example(tokenizer, row["prompt"], row["chosen"])
            ids = torch.tensor([encoded.ids])
            with torch.no_grad():
                logprobs = model(input_ids=ids).logits.double().log_softmax(-1)[0, :-1]
            values = logprobs.gather(1, ids[0, 1:, None])[:, 0]
            expected.append(float((values * torch.tensor(encoded.mask[1:])).sum()))
        assert metrics_of(tmp_path / name)[0]["logps/chosen"] == pytest.approx(sum(expected) / 8, rel=1e-5)
    assert metrics_of(tmp_path / "base")[0]["logps/chosen"] != metrics_of(tmp_path / "sft")[0]["logps/chosen"]


def test_a_wrong_reference_is_refused_before_the_first_step(tiny_model_dir, tmp_path, monkeypatch):
    whole = DPOTrainer.check_start

    def with_other_weights(trainer, job):
        with torch.no_grad():
            trainer.model.lm_head.weight.mul_(1.01)
        whole(trainer, job)

    monkeypatch.setattr(DPOTrainer, "check_start", with_other_weights)
    with pytest.raises(TrainError, match=r"rewards should be 0 and the loss 0\.693147"):
        train_dpo(tiny_model_dir, preference_rows(8), tmp_path, DPOConfig(**CONFIG), seed=0)
    assert not (tmp_path / "model.safetensors").exists()


def test_adapter_records_the_weights_it_belongs_to(sft_with_adapter, tiny_model_dir):
    from posttrain.core.models import model_hash

    assert json.loads((sft_with_adapter / "base.json").read_text()) == {"model_hash": model_hash(tiny_model_dir)}


def test_a_reloaded_adapter_gives_the_merged_model(sft_with_adapter, tmp_path, weights_of, largest_difference):
    config = DPOConfig(**{**CONFIG, "learning_rate": 1e-2}, lora=LoraConfig(rank=2))
    train_dpo(sft_with_adapter, preference_rows(8), tmp_path, config, seed=0)
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        merged, sft = (load_causal_lm(folder)(input_ids=ids).logits for folder in (tmp_path, sft_with_adapter))
        adapted = load_causal_lm(tmp_path / "adapter")(input_ids=ids).logits
    assert float((merged - sft).abs().max()) > 1e-2
    assert float((merged - adapted).abs().max()) < 1e-5


def test_kl_estimate_worked_by_hand():
    values = reference_kl(torch.tensor([0.0, 1.0, -1.0]))
    assert values.tolist() == pytest.approx([0.0, math.e - 2, 1 / math.e], rel=1e-6)
