"""Training in several processes on this machine, started by torch's launcher.

The parent tokenises, writes what to train into a folder, starts the processes, passes on their progress, and raises
the error of the first that failed. The launcher ends the others when one dies.
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
from typing import TYPE_CHECKING, Any

from posttrain.config import Execution, TrainConfig
from posttrain.core.errors import DataError, ModelError, PosttrainError, StorageError
from posttrain.core.files import write_jsonl
from posttrain.train.errors import TrainError, TrainingInterrupted
from posttrain.train.kinds import Kind, Progress
from posttrain.train.stop import StopRequest

if TYPE_CHECKING:
    from datasets import Dataset

    from posttrain.train.intake import Intake

PROGRESS_MARK = "posttrain-progress"
FAILURES = "failures.json"
LAUNCHER_VARIABLE = "POSTTRAIN_LAUNCHER"
"""Environment variable with the number of the launcher's process, for the processes that it starts."""
START_SECONDS = 60.0
"""How long processes wait for one that hangs at its start."""
TAIL_LINES = 40
NOTE_MARK = "posttrain-note"
SHUTDOWN_SECONDS = "120"
"""Time that the launcher gives its processes to save after a signal, where the environment sets none; torch: 30."""
_ERRORS: dict[str | None, type[PosttrainError]] = {
    error.__name__: error for error in (DataError, ModelError, StorageError, TrainingInterrupted)
}
# Signals that strike a process from outside or by its own fault; the others are how the launcher ends the rest.
_DEADLY = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)

log = logging.getLogger(__name__)


class Place:
    """Where process `rank` leaves what in the job's folder."""

    @staticmethod
    def output(folder: Path, rank: int) -> Path:
        """Return the file of what it prints."""
        return folder / f"output-{rank}.txt"

    @staticmethod
    def error(folder: Path, rank: int) -> Path:
        """Return the file of the exception that ended it."""
        return folder / f"error-{rank}.json"

    @staticmethod
    def stack(folder: Path, rank: int) -> Path:
        """Return the file of where it stands, when asked by SIGUSR1."""
        return folder / f"stack-{rank}.txt"

    @staticmethod
    def pid(folder: Path, rank: int) -> Path:
        """Return the file of its process number."""
        return folder / f"pid-{rank}"

    @staticmethod
    def ready(folder: Path, rank: int) -> Path:
        """Return the file that says that it has its rows."""
        return folder / f"ready-{rank}"


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
    tokens: tuple[Dataset, Intake],
) -> dict[str, Any]:
    """Run one training in `execution.processes` processes and return what it returns.

    Args:
        tokens: the rows as they were tokenised here; the processes map them from disk.

    Raises:
        DataError, ModelError, StorageError, TrainError: as the training itself; a process that died is a TrainError
            with its traceback or, where a signal killed it, its last output.
        TrainingInterrupted: this process, or one that it started, was told to stop.
    """
    from posttrain.train.shared import store_rows

    with tempfile.TemporaryDirectory(prefix="posttrain-launch-") as name:
        folder = Path(name)
        write_jsonl(folder / "rows.jsonl", rows)
        store_rows(folder, *tokens)
        job = {
            "kind": kind,
            "model_dir": str(model_dir),
            "teacher_dir": None if teacher_dir is None else str(teacher_dir),
            "out_dir": str(out_dir),
            "config": config.model_dump(mode="json"),
            "seed": seed,
            "execution": execution.model_dump(mode="json"),
            "start_seconds": START_SECONDS,
        }
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        code, tail, asked = _watch(folder, execution.processes, progress)
        if code != 0 and asked is not None and not any(folder.glob("error-*.json")):
            raise TrainingInterrupted(f"{asked} came before training began; the same command starts it again.")
        if code != 0:
            raise _failure(folder, execution.processes, code, tail)
        return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def _watch(folder: Path, processes: int, progress: Progress | None) -> tuple[int, str, str | None]:
    """Start the processes and read the launcher's output until they end.

    A signal is passed on to the launcher, which passes it on to its processes; these save and end.

    Returns:
        Exit code, the end of the output, and the name of the signal, if one came.
    """
    command = [sys.executable, "-m", "posttrain.train.torchrun", str(os.getpid()), str(folder)]
    command += ["--standalone", "--nproc_per_node", str(processes), "-m", "posttrain.train.worker", str(folder)]
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
                    lines = [*lines[-TAIL_LINES:], line]
        except BaseException:
            child.terminate()  # the launcher ends its processes
            raise
    return child.returncode, "".join(lines), request.asked


def _failure(folder: Path, processes: int, code: int, tail: str) -> PosttrainError:
    """Return the error of the process that failed first; those that only lost their partner come later."""
    path = folder / FAILURES
    codes: dict[str, int] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for rank, status in codes.items():
        if -status in _DEADLY:
            name = signal.Signals(-status).name
            hint = " (where memory runs out, the system kills so)" if name == "SIGKILL" else ""
            output = Place.output(folder, int(rank)).read_text(encoding="utf-8", errors="replace")
            last = "\n".join(output.splitlines()[-TAIL_LINES:])
            return TrainError(f"training process {rank} was killed by {name}{hint}; its last output:\n{last}")
    errors = [
        {**json.loads(place.read_text(encoding="utf-8")), "rank": rank}
        for rank in range(processes)
        if (place := Place.error(folder, rank)).is_file()
    ]
    if not errors:
        return TrainError(f"a training process ended with exit code {code}; the launcher's last output:\n{tail}")
    first = min(errors, key=lambda error: error["time"])
    if first["type"] is None:
        return TrainError(f"training process {first['rank']} failed:\n{first['message']}")
    return _ERRORS.get(first["type"], TrainError)(first["message"])
