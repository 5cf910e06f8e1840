"""One process of a training in several; started by `posttrain.train.launch`."""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TextIO

import torch.distributed

from posttrain.config import Execution
from posttrain.core.errors import PosttrainError
from posttrain.core.files import atomic_write, read_rows
from posttrain.train.errors import TrainError
from posttrain.train.launch import LAUNCHER_VARIABLE, NOTE_MARK, PROGRESS_MARK, Place
from posttrain.train.run import CONFIGS, train
from posttrain.train.shared import FOLDER_VARIABLE, POLL_SECONDS
from reward.lifetime import die_with_parent


def main(folder: Path) -> int:
    """Train what the folder describes; the first process writes the result, whichever fails writes its error."""
    die_with_parent(int(os.environ[LAUNCHER_VARIABLE]))
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    os.environ[FOLDER_VARIABLE] = str(folder)
    progress = _redirect(Place.output(folder, rank))
    logging.getLogger("posttrain").addHandler(_notes(progress))
    stack = open(Place.stack(folder, rank), "w", encoding="utf-8")  # noqa: SIM115 - open as long as the process
    faulthandler.register(signal.SIGUSR1, file=stack, all_threads=True)
    atomic_write(Place.pid(folder, rank), str(os.getpid()))
    try:
        job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        rows = read_rows(folder / "rows.jsonl")
        _wait_for_all(folder, rank, size, job["start_seconds"])
        result = train(
            job["kind"], job["model_dir"], rows, job["out_dir"], CONFIGS[job["kind"]].model_validate(job["config"]),
            job["seed"], Execution.model_validate(job["execution"]), job["teacher_dir"],
            lambda done, total: print(PROGRESS_MARK, done, total, file=progress, flush=True),
        )  # fmt: skip
    except Exception as error:
        known = type(error).__name__ if isinstance(error, PosttrainError) else None
        told = str(error) if known else traceback.format_exc()
        atomic_write(Place.error(folder, rank), json.dumps({"type": known, "message": told, "time": time.time()}))
        return 1
    if rank == 0:
        atomic_write(folder / "result.json", json.dumps(result))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # without this some processes abort after a good run
    return 0


def _redirect(path: Path) -> TextIO:
    """Send what this process prints to a file of its own; return the launcher's output, for progress."""
    progress = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with open(path, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    return progress


def _wait_for_all(folder: Path, rank: int, size: int, seconds: float) -> None:
    """Wait until every process has its rows; the process group alone would wait half an hour for one that hangs.

    Raises:
        TrainError: one did not come in time; says where it stands.
    """
    Place.ready(folder, rank).touch()
    until = time.monotonic() + seconds
    while missing := [number for number in range(size) if not Place.ready(folder, number).exists()]:
        if time.monotonic() > until:
            stacks = "\n".join(_stack_of(folder, number) for number in missing)
            names = ", ".join(map(str, missing))
            raise TrainError(
                f"training process {names} of {size} did not start within {seconds:.0f} s of process {rank}.\n{stacks}"
            )
        time.sleep(POLL_SECONDS)


def _stack_of(folder: Path, rank: int) -> str:
    """Ask a process of this machine where it stands."""
    try:
        os.kill(int(Place.pid(folder, rank).read_text(encoding="utf-8")), signal.SIGUSR1)
    except (FileNotFoundError, ProcessLookupError):
        return f"Process {rank} has not begun or is gone."
    time.sleep(1.0)
    return f"Process {rank} stands at:\n{Place.stack(folder, rank).read_text(encoding='utf-8')}"


def _notes(output: TextIO) -> logging.Handler:
    """Return a handler whose lines the parent repeats."""
    handler = logging.StreamHandler(output)
    handler.setFormatter(logging.Formatter(f"{NOTE_MARK} %(message)s"))
    return handler


if __name__ == "__main__":
    exit_code = main(Path(sys.argv[1]))
    if exit_code:
        os._exit(exit_code)  # the end of the interpreter would wait for partners
