"""Training in several processes on this machine, started by torch's launcher.

The parent writes what to train into a folder, starts the processes, passes on their progress, and raises the error of
the first that failed. The launcher ends the others when one dies.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from posttrain.config import Execution, TrainConfig
from posttrain.core.errors import DataError, ModelError, PosttrainError, StorageError
from posttrain.core.files import write_jsonl
from posttrain.train.errors import TrainError, TrainingInterrupted
from posttrain.train.kinds import Kind, Progress
from posttrain.train.stop import StopRequest

PROGRESS_MARK = "posttrain-progress"
NOTE_MARK = "posttrain-note"
SHUTDOWN_SECONDS = "120"
"""Time that the launcher gives its processes to save after a signal, where the environment sets none; torch: 30."""
_ERRORS: dict[str, type[PosttrainError]] = {
    error.__name__: error for error in (DataError, ModelError, StorageError, TrainingInterrupted)
}

log = logging.getLogger(__name__)


def needs_launch(execution: Execution) -> bool:
    """Say whether the config asks for processes that no launcher has started yet."""
    return execution.processes > 1 and "WORLD_SIZE" not in os.environ


def launch(
    kind: Kind,
    model_dir: str | Path,
    teacher_dir: str | Path | None,
    rows: Iterable[Mapping[str, Any]],
    out_dir: str | Path,
    config: TrainConfig,
    seed: int,
    execution: Execution,
    progress: Progress | None,
) -> dict[str, Any]:
    """Run one training in `execution.processes` processes and return what it returns.

    Raises:
        DataError, ModelError, StorageError, TrainError: as the training itself; a process that died is a TrainError
            with its output.
        TrainingInterrupted: this process, or one that it started, was told to stop.
    """
    with tempfile.TemporaryDirectory(prefix="posttrain-launch-") as folder:
        write_jsonl(Path(folder, "rows.jsonl"), rows)
        job = {
            "kind": kind,
            "model_dir": str(model_dir),
            "teacher_dir": None if teacher_dir is None else str(teacher_dir),
            "out_dir": str(out_dir),
            "config": config.model_dump(mode="json"),
            "seed": seed,
            "execution": execution.model_dump(mode="json"),
        }
        Path(folder, "job.json").write_text(json.dumps(job), encoding="utf-8")
        code, tail, asked = _watch(folder, execution.processes, progress)
        error = Path(folder, "error.json")
        if error.is_file():
            found = json.loads(error.read_text(encoding="utf-8"))
            raise _ERRORS.get(found["type"], TrainError)(found["message"])
        if code != 0 and asked is not None:
            raise TrainingInterrupted(f"{asked} came before training began; the same command starts it again.")
        if code != 0:
            raise TrainError(f"a training process ended with exit code {code}; its last output:\n{tail}")
        return json.loads(Path(folder, "result.json").read_text(encoding="utf-8"))


def _watch(folder: str, processes: int, progress: Progress | None) -> tuple[int, str, str | None]:
    """Start the processes and read their output until they end.

    A signal is passed on to the launcher, which passes it on to its processes; these save and end.

    Returns:
        Exit code, the end of the output, and the name of the signal, if one came.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command += ["-m", "posttrain.train.worker", folder]
    lines: list[str] = []
    environment = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": SHUTDOWN_SECONDS, **os.environ}
    with (
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace",
            env=environment,
        ) as child,
        StopRequest(lambda: child.send_signal(signal.SIGTERM)) as request,
    ):  # fmt: skip
        assert child.stdout is not None
        try:
            for line in child.stdout:
                if line.startswith(PROGRESS_MARK):
                    done, total = line.split()[1:]
                    if progress is not None:
                        progress(int(done), int(total))
                elif line.startswith(NOTE_MARK):
                    log.warning("%s", line.removeprefix(NOTE_MARK).strip())
                else:
                    lines = [*lines[-200:], line]
        except BaseException:
            child.terminate()  # the launcher ends its processes
            raise
    return child.returncode, "".join(lines), request.asked
