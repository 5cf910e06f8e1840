"""What cannot be had on a machine is said before anything is loaded, all of it at once."""

import importlib.util

import pytest
import torch
from training_data import completion_rows, preference_rows

from posttrain.config import AverageConfig, DPOConfig, Execution, RewardModelConfig, SFTConfig
from posttrain.train.dpo import train_dpo
from posttrain.train.errors import TrainError
from posttrain.train.limits import check_limits, limits
from posttrain.train.reward_model import train_reward_model
from posttrain.train.run import train
from posttrain.train.sft import train_sft
from posttrain.train.start import nf4

FOUR_BITS = {"max_steps": 1, "lora": {"load_in_4bit": True}}


@pytest.fixture
def without_bitsandbytes(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "posttrain.train.limits.find_spec", lambda name: None if name == "bitsandbytes" else found(name)
    )


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_4_bits_without_gpu_or_bitsandbytes_are_refused_with_both_reasons(
    tiny_model_dir, tmp_path, without_bitsandbytes, monkeypatch, device
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = rf"needs bitsandbytes, which is not installed.*; .*needs an NVIDIA GPU, and execution.device {device} gives"
    execution = Execution(device=device)
    with pytest.raises(TrainError, match=told):
        train_sft(tiny_model_dir, completion_rows(4), tmp_path, SFTConfig(**FOUR_BITS), 0, execution)
    with pytest.raises(TrainError, match=told):
        train_dpo(tiny_model_dir, preference_rows(4), tmp_path, DPOConfig(**FOUR_BITS), 0, execution)
    with pytest.raises(TrainError, match=told):
        train_reward_model(tiny_model_dir, preference_rows(4), tmp_path, RewardModelConfig(**FOUR_BITS), 0, execution)
    with pytest.raises(TrainError, match=told):  # before the rows and the folder are looked at
        train("sft", tmp_path / "nowhere", [], tmp_path, SFTConfig(**FOUR_BITS), 0, execution)


def test_4_bits_on_a_gpu_with_bitsandbytes_pass(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("posttrain.train.limits.find_spec", lambda name: object())
    check_limits(SFTConfig(**FOUR_BITS), Execution())
    assert list(limits(True, None, "cuda", "fsdp2")) == [
        "lora.load_in_4bit does not go with execution.sharding fsdp2: set sharding: none"
    ]


def test_checkpoints_of_shares_are_refused():
    execution = Execution(processes=2, sharding="fsdp2")
    with pytest.raises(TrainError, match="checkpoint_steps cannot resume under execution.sharding fsdp2"):
        check_limits(SFTConfig(max_steps=1, checkpoint_steps=10), execution)
    check_limits(SFTConfig(max_steps=1, checkpoint_steps=10), Execution(processes=2))


def test_the_4_bits_are_those_of_qlora():
    settings = nf4().to_dict()
    assert settings["load_in_4bit"] and settings["bnb_4bit_use_double_quant"]
    assert (settings["bnb_4bit_quant_type"], settings["bnb_4bit_compute_dtype"]) == ("nf4", "bfloat16")
    assert settings["llm_int8_skip_modules"] == ["lm_head", "score"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"sharding": "fsdp2"}, "divides weights among processes: set processes to 2 or more"),
        ({"processes": 2, "device": "cuda:1"}, "'cuda:1' names one device for 2 processes"),
    ],
)
def test_execution_that_contradicts_itself(fields, told):
    with pytest.raises(ValueError, match=told):
        Execution(**fields)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"rule": "weighted"}, "give both or neither"),
        ({"weights": [0.5, 0.5]}, "give both or neither"),
        ({"rule": "weighted", "num_policies": 3, "weights": [0.5, 0.5]}, "2 shares for num_policies 3"),
        ({"rule": "weighted", "weights": [0.5, 0.6]}, "sum to 1.1, not to 1"),
    ],
)
def test_averages_that_contradict_themselves(fields, told):
    with pytest.raises(ValueError, match=told):
        AverageConfig(**fields)
