import numpy as np
import pytest
import torch
from training_data import completion_rows, preference_rows
from transformers import AutoModelForCausalLM

from posttrain.config import DPOConfig, LoraConfig, RewardModelConfig, SFTConfig
from posttrain.core.models import load_causal_lm
from posttrain.train.dpo import train_dpo
from posttrain.train.peak import Work, peak
from posttrain.train.reward_model import train_reward_model
from posttrain.train.sft import train_sft

ALWAYS = {"step", "epoch", "loss", "grad_norm", "learning_rate", "num_tokens", "tokens_per_second", "matmul_share"}
SFT = {"entropy", "mean_token_accuracy", "completions/mean_length"}
REWARD_MODEL = {"accuracy", "margin", "mean_reward", "min_reward", "max_reward"}
DPO = {
    *(f"{name}/chosen" for name in ("rewards", "logps", "logps_per_token", "length")),
    *(f"{name}/rejected" for name in ("rewards", "logps", "logps_per_token", "length")),
    *("rewards/accuracies", "rewards/margins", "loss/preference", "loss/nll", "kl"),
}
RUNS = {
    "sft": (train_sft, SFTConfig, completion_rows(8), SFT),
    "sft_lora": (train_sft, SFTConfig, completion_rows(8), SFT),
    "dpo": (train_dpo, DPOConfig, preference_rows(8), DPO),
    "reward_model": (train_reward_model, RewardModelConfig, preference_rows(8), REWARD_MODEL),
}


@pytest.mark.parametrize("name", RUNS)
def test_every_logged_step_has_every_number(name, tiny_model_dir, tmp_path, metrics_of):
    train, section, rows, own = RUNS[name]
    lora = LoraConfig(rank=2) if name.endswith("lora") else None
    sizes = {"max_steps": 3, "global_batch_size": 4, "device_batch_size": 2, "logging_steps": 1}
    config = section(learning_rate=1e-3, lora=lora, **sizes)
    train(tiny_model_dir, rows, tmp_path, config, seed=0)
    logged = metrics_of(tmp_path)
    assert [row["step"] for row in logged] == [1, 2, 3]
    for row in logged:
        assert row.keys() == ALWAYS | own
        assert 0.0 < row["matmul_share"] < 1.0


def test_mean_length_is_learned_tokens_per_row(tiny_model_dir, tmp_path, metrics_of):
    rows = completion_rows(4)
    config = SFTConfig(learning_rate=1e-3, max_steps=1, global_batch_size=4)
    train_sft(tiny_model_dir, rows, tmp_path, config, seed=0)
    # A word is a token, and the end of turn is learned too.
    lengths = [len(row["completion"][0]["content"].split()) + 1 for row in rows]
    assert metrics_of(tmp_path)[0]["completions/mean_length"] == pytest.approx(sum(lengths) / 4)


@pytest.mark.parametrize("trained", [True, False])
def test_work_of_a_token_by_hand(trained, tiny_model_dir):
    model = load_causal_lm(tiny_model_dir).requires_grad_(trained)
    vocabulary = model.config.vocab_size
    work = Work(model, np.array([10, 30]), "float32")
    # A layer: q, k, v, o of 32 × 32, and three of 32 × 64: 10,240 numbers; two layers. 4 operations a number where it
    # is frozen (2 forward, 2 backward), 6 where it is trained. Mean context (10² + 30²) / (10 + 30) = 25; 6·L·d·25.
    each = 6 if trained else 4
    assert work.per_token == each * 20_480 + 6 * 2 * 32 * 25
    assert work.per_place == each * 32 * vocabulary
    work.add({"num_tokens": 40, "places": torch.arange(7)})
    work.add({"num_tokens": 2})
    assert work.flops == 42 * work.per_token + 7 * work.per_place
    work.peak = 1e9
    assert work.read(flops=3e9, seconds=10.0) == {"matmul_share": pytest.approx(0.3)}
    assert work.flops == 0.0


def test_mixtures_of_experts_have_no_share(tiny_model_dir):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model.config.num_local_experts = 8
    assert Work(model, np.array([4]), "float32").read(1e9, 1.0) == {}


def test_the_peak_is_measured_once_and_leaves_random_numbers_alone():
    peak.cache_clear()
    before = torch.random.get_rng_state()
    first = peak(torch.device("cpu"), torch.float32)
    assert torch.random.get_rng_state().equal(before)
    assert peak(torch.device("cpu"), torch.float32) == first
    # No processor does less than 0.1 GFLOP/s on one core, nor more than 100 TFLOP/s.
    assert 1e8 < first < 1e14
