"""N steps, a real kill, the same command again: the rest equals a run without interruption, bit for bit."""

import json
import os
import signal
import time

import children
import pytest
from training_data import completion_rows, preference_rows

from posttrain.core.files import write_jsonl

SETTINGS = ["learning_rate=1e-3", "max_steps=8", "global_batch_size=4", "logging_steps=3"]
# 10 rows: an epoch has steps of 4, 4 and 2 rows, and with 2 rows a forward pass 2, 2 and 1 passes.
KINDS = {"sft": completion_rows(10), "dpo": preference_rows(10)}
TIMED = ("tokens_per_second", "matmul_share")


class Bench:
    def __init__(self, folder, model_dir):
        self.folder, self.model_dir = folder, model_dir
        for kind, rows in KINDS.items():
            write_jsonl(folder / f"{kind}.jsonl", rows)

    def command(self, kind, out, *settings):
        out = self.folder / out
        files = ["--model", self.model_dir, "--data", self.folder / f"{kind}.jsonl", "--out", out]
        return ["train", kind, *files, *SETTINGS, "device_batch_size=2", *settings]

    def start(self, kind, out, hook=None, *values, settings=("checkpoint_steps=2",)):
        return children.start(self.command(kind, out, *settings), self.folder / f"{out}.log", hook, *values)

    def run(self, *args, **kwargs):
        return children.finish(self.start(*args, **kwargs))

    def said(self, out):
        return (self.folder / f"{out}.log").read_text()

    def result(self, out):
        said = self.said(out)
        return json.loads(said[said.rindex("{\n") :]) if "{\n" in said else None

    def rows(self, out):
        rows = [json.loads(line) for line in (self.folder / out / "metrics.jsonl").read_text().splitlines()]
        return [{name: value for name, value in row.items() if name not in TIMED} for row in rows]

    def require_same(self, out, straight):
        assert self.rows(out) == self.rows(straight)
        first, second = ((self.folder / name / "model.safetensors").read_bytes() for name in (out, straight))
        assert first == second
        assert not (self.folder / out / "checkpoints").exists()


@pytest.fixture(scope="module")
def bench(tmp_path_factory, tiny_model_dir):
    bench = Bench(tmp_path_factory.mktemp("killed"), tiny_model_dir)
    runs = [bench.start(kind, f"{kind}_straight") for kind in KINDS]
    assert [children.finish(run) for run in runs] == [0, 0]
    # Rows of metrics at steps 1, 3, 6 and 8: windows that begin before a kill and end after it.
    assert [row["step"] for row in bench.rows("sft_straight")] == [1, 3, 6, 8]
    return bench


KILLS = {
    # Passes: 1 2 | 3 4 | 5 || 6 7 | 8 9 | 10 || 11 12 | 13 14: the ninth is the second one of step 5.
    "inside_a_step": ("sft", 4, children.die_in_forward, 9),
    # The first pass of step 8, the second one of its epoch.
    "mid_epoch": ("dpo", 6, children.die_in_forward, 13),
    # Step 6 is the last one of epoch 2, and its checkpoint is there.
    "epoch_end": ("sft", 6, children.die_at_epoch_end, 2),
    "inside_a_save": ("sft", 4, children.die_in_save, 3),
    # Step 8 is not the last one of its epoch: no step may be added.
    "final_save": ("sft", 8, children.die_in_final_save),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLS)
def test_killed_run_goes_on_as_if_nothing_had_been(bench, name):
    kind, resumed_from, *hook = KILLS[name]
    assert bench.run(kind, name, *hook) == -signal.SIGKILL
    assert not (bench.folder / name / "model.safetensors").exists()
    assert bench.run(kind, name) == 0
    assert bench.result(name)["resumed_from"] == resumed_from
    bench.require_same(name, f"{kind}_straight")
    told = "checkpoint-6 (its save was cut off); training goes on from checkpoint-4"
    assert (told in bench.said(name)) == (name == "inside_a_save")


@pytest.mark.slow
def test_full_disk_leaves_the_checkpoint_before_it(bench):
    # From the second save on a model (100 kB) still fits, and its optimizer state, twice that, does not.
    assert bench.run("sft", "full", children.fill_disk_after_first_checkpoint, 150_000) == 1
    said = bench.said("full")
    assert "no room to write" in said and "checkpoint-2 before it is whole" in said, said
    folder = bench.folder / "full" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-2", "identity.json"]
    assert bench.run("sft", "full") == 0
    assert bench.result("full")["resumed_from"] == 2
    bench.require_same("full", "sft_straight")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_at_the_next_step_without_checkpoint_steps(bench, number):
    name = signal.Signals(number).name
    child = bench.start("sft", name, children.slow_down, 0.1, settings=())
    metrics = bench.folder / name / "metrics.jsonl"
    until = time.monotonic() + 240
    while not (metrics.is_file() and metrics.read_text().count("\n")):
        assert child.is_alive() and time.monotonic() < until, bench.said(name)
        time.sleep(0.02)
    os.kill(child.pid, number)
    assert children.finish(child) == 1
    (saved,) = (bench.folder / name / "checkpoints").glob("checkpoint-*")
    step = int(saved.name.removeprefix("checkpoint-"))
    assert 1 <= step < 8
    said = bench.said(name)
    assert f"{name} came: training stopped after step {step} of 8" in said and "The same command goes on" in said
    assert bench.run("sft", name, settings=()) == 0
    assert bench.result(name)["resumed_from"] == step
    bench.require_same(name, "sft_straight")
