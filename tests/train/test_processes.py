"""Two processes make the same steps as one."""

import pytest
from training_data import completion_rows, preference_rows

from posttrain.config import DPOConfig, Execution, RewardModelConfig, SFTConfig
from posttrain.core.errors import DataError
from posttrain.train.dpo import train_dpo
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
def test_a_refusal_in_a_process_is_the_parents_error(tiny_model_dir, tmp_path):
    execution = CPU.model_copy(update={"processes": 2})
    config = SFTConfig(**COMMON, max_tokens=4, max_truncated_rate=1.0)
    with pytest.raises(DataError, match="none of 9 rows is left"):
        train_sft(tiny_model_dir, completion_rows(9), tmp_path, config, 0, execution)
