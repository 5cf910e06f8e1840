"""What ends a training in several processes, and what its error says."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import Dataset
from training_data import completion_rows

from posttrain.config import Execution, SFTConfig
from posttrain.core.errors import DataError, ModelError
from posttrain.train import launch, shared
from posttrain.train.errors import TrainError
from posttrain.train.intake import Intake
from posttrain.train.sft import train_sft

TWO = Execution(device="cpu", threads=1, processes=2)
CONFIG = SFTConfig(learning_rate=1e-4, max_steps=500, global_batch_size=8, logging_steps=1)
FAULT = """
import os, time
if os.environ.get("RANK") == "1":
    import posttrain.core.files
    def read_rows(path):
        {}
    posttrain.core.files.read_rows = read_rows
"""


def workers() -> dict[int, int]:
    """Return the process numbers of this test's training processes by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            environment = dict(item.partition(b"=")[::2] for item in (folder / "environ").read_bytes().split(b"\0"))
        except OSError:
            continue
        is_worker = b"posttrain.train.worker" in command and b"posttrain.train.torchrun" not in command
        if is_worker and environment.get(b"LAUNCH_TEST") == str(os.getpid()).encode():
            found[int(environment[b"RANK"])] = int(folder.name)
    return found


@pytest.fixture
def marked(monkeypatch):
    monkeypatch.setenv("LAUNCH_TEST", str(os.getpid()))


@pytest.fixture
def with_fault(tmp_path, monkeypatch, marked):
    """Put a fault into the second process: its reader of rows is replaced."""

    def put(line):
        (tmp_path / "fault").mkdir()
        (tmp_path / "fault" / "sitecustomize.py").write_text(FAULT.format(line))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fault"), prepend=os.pathsep)

    return put


@pytest.mark.slow
def test_a_killed_process_ends_the_training(tiny_model_dir, tmp_path, marked):
    killed = []

    def kill(done, total):
        if not killed:
            os.kill(workers()[1], signal.SIGKILL)
            killed.append(time.monotonic())

    with pytest.raises(TrainError, match=r"training process 1 was killed by SIGKILL \(where memory runs out"):
        train_sft(tiny_model_dir, completion_rows(9), tmp_path / "out", CONFIG, 0, TWO, kill)
    assert time.monotonic() - killed[0] < 60  # seconds; two minutes are allowed
    assert workers() == {}
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.slow
def test_an_exception_in_one_process_comes_with_its_traceback(tiny_model_dir, tmp_path, with_fault):
    with_fault("raise KeyError('no such disk')")
    with pytest.raises(TrainError, match=r"(?s)training process 1 failed:.*Traceback.*KeyError: 'no such disk'"):
        train_sft(tiny_model_dir, completion_rows(9), tmp_path / "out", CONFIG, 0, TWO)
    assert workers() == {}


def failure(folder, codes, **errors):
    """Lay down what processes leave, and return the parent's error."""
    folder.mkdir()
    (folder / launch.FAILURES).write_text(json.dumps(codes))
    for place, (seconds, kind, message) in errors.items():
        rank = int(place.removeprefix("process_"))
        launch.Place.error(folder, rank).write_text(json.dumps({"type": kind, "message": message, "time": seconds}))
    for rank in range(2):
        launch.Place.output(folder, rank).write_text(f"last words of {rank}\n")
    return launch._failure(folder, 2, 1, "the launcher's words")


def test_the_first_failure_is_the_parents_error(tmp_path):
    lost = (7.5, None, "Traceback: Connection closed by peer")
    refused = failure(tmp_path / "refused", {"0": 1, "1": 1}, process_0=lost, process_1=(7.0, "ModelError", "no model"))
    assert type(refused) is ModelError and str(refused) == "no model"
    # A partner that aborts as it loses the group (-6) or is ended by the launcher (-15) is not the cause.
    crashed = failure(tmp_path / "crashed", {"0": 1, "1": -6}, process_0=(7.0, None, "Traceback: KeyError"))
    assert type(crashed) is TrainError and str(crashed) == "training process 0 failed:\nTraceback: KeyError"
    killed = failure(tmp_path / "killed", {"0": 1, "1": -9}, process_0=lost)
    assert "training process 1 was killed by SIGKILL" in str(killed) and "last words of 1" in str(killed)
    silent = failure(tmp_path / "silent", {"1": 3})
    assert str(silent) == "a training process ended with exit code 1; the launcher's last output:\nthe launcher's words"


PARENT = """
import sys
from posttrain.config import Execution, SFTConfig
from posttrain.train.sft import train_sft
from training_data import completion_rows
if __name__ == "__main__":
    config = SFTConfig(max_steps=500, global_batch_size=8)
    train_sft(sys.argv[1], completion_rows(9), sys.argv[2], config, 0, Execution(device="cpu", processes=2))
"""


@pytest.mark.slow
def test_processes_end_with_a_killed_parent(tiny_model_dir, tmp_path, with_fault):
    with_fault("time.sleep(600)")  # no process goes on to train
    here = Path(__file__).parent
    path = os.pathsep.join([os.environ["PYTHONPATH"], str(here), str(here.parents[1])])
    command = [sys.executable, "-c", PARENT, str(tiny_model_dir), str(tmp_path / "out")]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.DEVNULL) as parent:
        until = time.monotonic() + 240
        while set(workers()) != {0, 1} and time.monotonic() < until:
            time.sleep(0.1)
        assert set(workers()) == {0, 1}
        parent.kill()
    until = time.monotonic() + 30
    while workers() and time.monotonic() < until:
        time.sleep(0.1)
    assert workers() == {}


@pytest.mark.slow
def test_a_process_that_hangs_at_its_start_is_named_with_where_it_stands(
    tiny_model_dir, tmp_path, with_fault, monkeypatch
):
    assert launch.START_SECONDS == 60.0
    monkeypatch.setattr(launch, "START_SECONDS", 2.0)
    with_fault("time.sleep(600)")
    started = time.monotonic()
    told = r"(?s)process 1 of 2 did not start within 2 s.*sitecustomize.py.* in read_rows"
    with pytest.raises(TrainError, match=told):
        train_sft(tiny_model_dir, completion_rows(9), tmp_path / "out", CONFIG, 0, TWO)
    assert time.monotonic() - started < 60
    assert workers() == {}


def test_rows_are_tokenised_once_and_mapped(tmp_path, monkeypatch):
    dataset = Dataset.from_dict({"input_ids": [[1, 2], [3]]})
    intake = Intake(5, 1)
    intake.drop("empty answer")
    shared.store_rows(tmp_path, dataset, intake)
    asked = []
    assert shared.tokenized(lambda: asked.append(1) or (dataset, intake))[0] is dataset
    monkeypatch.setenv(shared.FOLDER_VARIABLE, str(tmp_path))
    found, counts = shared.tokenized(lambda: asked.append(2))
    assert asked == [1]
    assert found["input_ids"][:] == [[1, 2], [3]] and found.cache_files
    assert counts.summary() == intake.summary()


def test_rows_that_cannot_be_used_are_refused_before_a_process_starts(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "_watch", None)
    config = SFTConfig(max_steps=1, max_tokens=2)
    with pytest.raises(DataError, match="longer than max_tokens"):
        train_sft(tiny_model_dir, completion_rows(9), tmp_path / "out", config, 0, TWO)
