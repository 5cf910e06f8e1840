"""However a global batch is split, the steps are the same."""

from itertools import product

import numpy as np
import pytest
from training_data import completion_rows, preference_rows

from posttrain.config import DPOConfig, LoraConfig, RewardModelConfig, SFTConfig
from posttrain.train.batches import GlobalBatches, pad_rows, whole_pass
from posttrain.train.dpo import train_dpo
from posttrain.train.reward_model import train_reward_model
from posttrain.train.sft import train_sft

# A low rate: Adam blows rounding errors of vanishing gradients up to the size of the rate.
COMMON = {"learning_rate": 1e-4, "max_steps": 4, "global_batch_size": 8, "logging_steps": 1}
# 13 rows: the second step of each epoch has 5 rows, which no split divides evenly.
RUNS = {
    "sft": (train_sft, SFTConfig(**COMMON), completion_rows(13)),
    "dpo": (train_dpo, DPOConfig(**COMMON, nll_weight=0.5), preference_rows(13)),
    "dpo_norm": (train_dpo, DPOConfig(**COMMON, loss="sigmoid_norm", beta=2.0), preference_rows(13)),
    "reward_model": (train_reward_model, RewardModelConfig(**COMMON, center=0.1), preference_rows(14)),
}


@pytest.mark.parametrize("name", RUNS)
def test_accumulation_changes_neither_losses_nor_weights(
    name, tiny_model_dir, tmp_path, metrics_of, weights_of, largest_difference
):
    train, config, rows = RUNS[name]
    for size in (8, 4, 1):
        split = config.model_copy(update={"device_batch_size": size})
        train(tiny_model_dir, rows, tmp_path / str(size), split, seed=0)
    whole = metrics_of(tmp_path / "8")
    assert [row["step"] for row in whole] == [1, 2, 3, 4]
    for size in ("4", "1"):
        for key in ("loss", "grad_norm"):
            values = [row[key] for row in metrics_of(tmp_path / size)]
            assert values == pytest.approx([row[key] for row in whole], rel=1e-5), (size, key)
        assert largest_difference(weights_of(tmp_path / "8"), weights_of(tmp_path / size)) < 1e-5


def test_same_seed_gives_the_same_bits_and_another_seed_does_not(tiny_model_dir, tmp_path, metrics_of):
    config = SFTConfig(**COMMON, lora=LoraConfig(rank=2, dropout=0.1))
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train_sft(tiny_model_dir, completion_rows(13), tmp_path / name, config, seed=seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c
    first, second = ([row["loss"] for row in metrics_of(tmp_path / name)] for name in "ab")
    assert first == second


def test_the_sections_own_seed_wins(tiny_model_dir, tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        train_sft(tiny_model_dir, completion_rows(9), tmp_path / name, SFTConfig(**COMMON, seed=7), seed=seed)
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def rows_of_steps(num_rows, device, world, epoch=0, seed=0, tokens=1000, padded=False):
    """The rows of each optimizer step, as all processes see them together."""
    sizes = 1 + np.arange(num_rows) % 7
    samplers = [GlobalBatches(sizes, 8, device, tokens, seed, rank, world, padded) for rank in range(world)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    per_rank = [list(sampler) for sampler in samplers]
    assert {len(steps) for steps in per_rank} == {len(samplers[0])}
    steps = []
    for together in zip(*per_rank, strict=True):
        assert len({len(passes) for passes in together}) == 1  # no process waits for another
        rows = [row for passes in together for rows in passes for row in rows]
        steps.append(sorted(row for row in rows if row >= 0))
        for rows in (rows for passes in together for rows in passes if len(rows) > 1):
            taken = sizes[rows].max() * len(rows) if padded else sizes[rows].sum()
            assert taken <= tokens and len(rows) <= (device or 8)
    return steps


DEVICES = [(8, 1), (None, 1), (3, 1), (1, 1), (4, 2), (None, 2), (2, 4), (1, 8)]  # rows per pass, processes


@pytest.mark.parametrize("padded", [False, True])
def test_steps_have_the_same_rows_on_any_number_of_devices(padded):
    wrong = []
    for num_rows, (device, world), tokens in product([3, 8, 9, 13, 16], DEVICES, [1000, 12, 1]):
        steps = rows_of_steps(num_rows, device, world, tokens=tokens, padded=padded)
        every_row = sorted(row for step in steps for row in step) == list(range(num_rows))
        if steps != rows_of_steps(num_rows, 8, 1) or not every_row:
            wrong.append((num_rows, device, world, tokens, steps))
    assert not wrong


def test_each_epoch_has_its_own_order():
    assert rows_of_steps(40, 8, 1, epoch=0) != rows_of_steps(40, 8, 1, epoch=1)
    assert rows_of_steps(40, 8, 1, epoch=1) == rows_of_steps(40, 2, 2, epoch=1)


def test_tokens_are_spread_evenly_over_forward_passes():
    sizes = np.array([90, 10, 10, 10, 40, 40, 40, 60])  # 300 tokens
    ((first, second),) = GlobalBatches(sizes, 8, None, 150, 0)
    assert sizes[first].sum() == sizes[second].sum() == 150
    ((only,),) = GlobalBatches(sizes, 8, None, 300, 0)
    assert sorted(only) == list(range(8))


def test_all_rows_are_passed_over_once_within_the_budget():
    sizes = np.array([5, 9, 1, 30, 4, 4])
    assert whole_pass(sizes, 10, padded=False) == [[3], [1], [0, 4], [5, 2]]
    assert whole_pass(sizes, 10, padded=True) == [[3], [1], [0, 4], [5, 2]]
    assert whole_pass(sizes, 14, padded=False) == [[3], [1, 0], [4, 5, 2]]
    assert whole_pass(sizes, 9, padded=True) == [[3], [1], [0], [4, 5], [2]]


def test_padding_stands_on_the_right():
    padded = pad_rows([np.array([1, 2, 3]), np.array([4])], 9)
    assert padded.tolist() == [[1, 2, 3], [4, 9, 9]]
