"""Two processes make the same steps as one."""

import os
import signal

import pytest
from training_data import completion_rows, preference_rows

from posttrain.config import DPOConfig, Execution, RewardModelConfig, SFTConfig
from posttrain.core.errors import DataError
from posttrain.train.dpo import train_dpo
from posttrain.train.errors import TrainingInterrupted
from posttrain.train.reward_model import train_reward_model
from posttrain.train.sft import train_sft

COMMON = {"learning_rate": 1e-4, "max_steps": 4, "global_batch_size": 8, "logging_steps": 1}
# 9 rows: the second step of an epoch has one row, so that one process gets a filler.
RUNS = {
    "sft": (train_sft, SFTConfig(**COMMON), completion_rows(9)),
    "dpo": (train_dpo, DPOConfig(**COMMON), preference_rows(9)),
    "reward_model": (train_reward_model, RewardModelConfig(**COMMON, margin=False), preference_rows(10)),
}
CPU = Execution(device="cpu", threads=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_equal_one(name, tiny_model_dir, tmp_path, metrics_of, weights_of, largest_difference):
    train, config, rows = RUNS[name]
    one = train(tiny_model_dir, rows, tmp_path / "one", config, 0, CPU)
    seen = []
    two = train(
        tiny_model_dir, rows, tmp_path / "two", config, 0, CPU.model_copy(update={"processes": 2}),
        lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert two["steps"] == one["steps"]
    assert two.get("accuracy") == one.get("accuracy")
    first, second = metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two")
    for key in ("loss", "grad_norm", "num_tokens"):
        assert [row[key] for row in second] == pytest.approx([row[key] for row in first], rel=1e-5), key
    assert largest_difference(weights_of(tmp_path / "one"), weights_of(tmp_path / "two")) < 1e-5


@pytest.mark.slow
def test_a_signal_saves_in_all_processes_at_one_step(tiny_model_dir, tmp_path, metrics_of):
    config = SFTConfig(**{**COMMON, "max_steps": 200, "global_batch_size": 10})

    def stop_at_first(done, total):
        if done == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    execution = CPU.model_copy(update={"processes": 2})
    with pytest.raises(TrainingInterrupted, match=r"SIGTERM came: training stopped after step \d+ of 200"):
        train_sft(tiny_model_dir, completion_rows(10), tmp_path, config, 0, execution, stop_at_first)
    assert signal.getsignal(signal.SIGTERM) == before
    (saved,) = (tmp_path / "checkpoints").glob("checkpoint-*")
    assert {path.name for path in saved.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}
    step = int(saved.name.removeprefix("checkpoint-"))
    # One process goes on where two have stopped. Each step sees all ten rows.
    result = train_sft(tiny_model_dir, completion_rows(10), tmp_path, config, 0, CPU)
    assert result["resumed_from"] == step < 200
    rows = metrics_of(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 201))
    assert [row["num_tokens"] for row in rows] == [number * rows[0]["num_tokens"] for number in range(1, 201)]
    train_sft(tiny_model_dir, completion_rows(10), tmp_path / "straight", config, 0, CPU)
    straight = metrics_of(tmp_path / "straight")
    for key in ("loss", "learning_rate"):
        assert [row[key] for row in rows] == pytest.approx([row[key] for row in straight], rel=1e-3), key


@pytest.mark.slow
def test_a_refusal_in_a_process_is_the_parents_error(tiny_model_dir, tmp_path):
    execution = CPU.model_copy(update={"processes": 2})
    config = SFTConfig(**COMMON, max_tokens=4, max_truncated_rate=1.0)
    with pytest.raises(DataError, match="none of 9 rows is left"):
        train_sft(tiny_model_dir, completion_rows(9), tmp_path, config, 0, execution)
