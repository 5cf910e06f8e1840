"""Two processes make the same steps as one, whether each holds all weights or its share of them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from training_data import completion_rows, preference_rows

from posttrain.config import DPOConfig, Execution, SFTConfig
from posttrain.core.models import load_causal_lm, load_reward_model
from posttrain.train.dpo import train_dpo
from posttrain.train.errors import TrainingInterrupted
from posttrain.train.run import CONFIGS, train
from posttrain.train.sft import train_sft

pytestmark = pytest.mark.slow
COMMON = {"learning_rate": 1e-4, "max_steps": 4, "global_batch_size": 8, "logging_steps": 1}
LORA = {"lora": {"rank": 4, "alpha": 8}}
# 9 rows: the second step of an epoch has one row, so that one process gets a filler.
RUNS = {
    "sft": ("sft", COMMON, completion_rows(9)),
    "dpo": ("dpo", COMMON, preference_rows(9)),
    "reward_model": ("reward_model", COMMON, preference_rows(10)),
    "sft, lora": ("sft", COMMON | LORA, completion_rows(9)),
    "dpo, lora": ("dpo", COMMON | LORA, preference_rows(9)),
    "reward_model, lora": ("reward_model", COMMON | LORA, preference_rows(10)),
    "sft, gradient_checkpointing": ("sft", COMMON | {"gradient_checkpointing": True}, completion_rows(9)),
    "dpo, bfloat16": ("dpo", COMMON | {"dtype": "bfloat16"}, preference_rows(9)),
}
SHARDED = list(RUNS)
WHOLE = ["sft", "reward_model"]  # dpo is launched as a user would, below
CPU = {"device": "cpu", "threads": 1}


@pytest.fixture(scope="module")
def two(tiny_model_dir, tmp_path_factory):
    """Folders of all runs in two processes, made in one start of them."""
    root = tmp_path_factory.mktemp("two")
    jobs = [
        {
            "name": f"{name}, {sharding}",
            "kind": RUNS[name][0],
            "config": RUNS[name][1],
            "rows": RUNS[name][2],
            "model": str(tiny_model_dir),
            "execution": {**CPU, "processes": 2, "sharding": sharding},
        }
        for sharding, names in (("none", WHOLE), ("fsdp2", SHARDED))
        for name in names
    ]
    (root / "jobs.json").write_text(json.dumps(jobs))
    here = Path(__file__).parent
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(here / "two_processes.py"), str(root)],
        capture_output=True, text=True, timeout=300, cwd=here.parents[1], env=os.environ | {"PYTHONPATH": "."},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    return root


def one_process(name, tiny_model_dir, out):
    kind, config, rows = RUNS[name]
    return train(kind, tiny_model_dir, rows, out, CONFIGS[kind].model_validate(config), 0, Execution(**CPU))


@pytest.mark.parametrize(("name", "sharding"), [(n, "none") for n in WHOLE] + [(n, "fsdp2") for n in SHARDED])
def test_two_processes_equal_one(
    name, sharding, two, tiny_model_dir, tmp_path, metrics_of, weights_of, largest_difference
):
    folder = two / f"{name}, {sharding}"
    one, result = one_process(name, tiny_model_dir, tmp_path), json.loads((folder / "result.json").read_text())
    assert result["steps"] == one["steps"] == 4
    assert result.get("accuracy") == one.get("accuracy")
    assert bool(result["held"]) == (sharding == "fsdp2")
    for own, all_weights in result["held"]:
        assert own == pytest.approx(all_weights / 2, rel=0.01)
    first, second = metrics_of(tmp_path), metrics_of(folder)
    exact = "bfloat16" not in name
    for key in ("loss", "grad_norm", "num_tokens"):
        wanted = pytest.approx([row[key] for row in first], rel=1e-5 if exact else 0.03)
        assert [row[key] for row in second] == wanted, key
    # Adam's first steps have the size of the learning rate, 1e-4, whatever the gradient: in bfloat16 a sign may differ.
    limit = 1e-5 if exact else 4.5e-4
    assert largest_difference(weights_of(tmp_path), weights_of(folder)) < limit
    assert {path.name for path in folder.iterdir()} - {"result.json"} == {path.name for path in tmp_path.iterdir()}
    (load_reward_model if name.startswith("reward_model") else load_causal_lm)(folder)
    if "lora" in name:
        assert largest_difference(adapter_of(tmp_path), adapter_of(folder)) < 1e-5


def adapter_of(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter" / "adapter_model.safetensors")


def test_launched_processes_get_their_rows_from_the_parent_and_share_the_reference(
    tiny_model_dir, tmp_path, metrics_of, weights_of, largest_difference
):
    config, rows = DPOConfig(**COMMON), preference_rows(9)
    one = train_dpo(tiny_model_dir, rows, tmp_path / "one", config, 0, Execution(**CPU))
    seen = []
    two = train_dpo(
        tiny_model_dir, rows, tmp_path / "two", config, 0, Execution(**CPU, processes=2),
        lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    counts = ("steps", "num_rows", "num_trained", "num_truncated", "dropped")
    assert [two[name] for name in counts] == [one[name] for name in counts]
    first, second = metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two")
    for key in ("loss", "grad_norm", "num_tokens"):
        assert [row[key] for row in second] == pytest.approx([row[key] for row in first], rel=1e-5), key
    assert largest_difference(weights_of(tmp_path / "one"), weights_of(tmp_path / "two")) < 1e-5


def test_a_signal_saves_in_all_processes_at_one_step(tiny_model_dir, tmp_path, metrics_of):
    config = SFTConfig(**{**COMMON, "max_steps": 200, "global_batch_size": 10})

    def stop_at_first(done, total):
        if done == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    execution = Execution(**CPU, processes=2)
    with pytest.raises(TrainingInterrupted, match=r"SIGTERM came: training stopped after step \d+ of 200"):
        train_sft(tiny_model_dir, completion_rows(10), tmp_path, config, 0, execution, stop_at_first)
    assert signal.getsignal(signal.SIGTERM) == before
    (saved,) = (tmp_path / "checkpoints").glob("checkpoint-*")
    assert {path.name for path in saved.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}
    step = int(saved.name.removeprefix("checkpoint-"))
    # One process goes on where two have stopped. Each step sees all ten rows.
    result = train_sft(tiny_model_dir, completion_rows(10), tmp_path, config, 0, Execution(**CPU))
    assert result["resumed_from"] == step < 200
    rows = metrics_of(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 201))
    assert [row["num_tokens"] for row in rows] == [number * rows[0]["num_tokens"] for number in range(1, 201)]
    train_sft(tiny_model_dir, completion_rows(10), tmp_path / "straight", config, 0, Execution(**CPU))
    straight = metrics_of(tmp_path / "straight")
    for key in ("loss", "learning_rate"):
        assert [row[key] for row in rows] == pytest.approx([row[key] for row in straight], rel=1e-3), key
