"""One process of a training in several; started by `posttrain.train.launch`."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

import torch.distributed

from posttrain.config import Execution
from posttrain.core.errors import PosttrainError
from posttrain.core.files import atomic_write, read_rows
from posttrain.train.launch import NOTE_MARK, PROGRESS_MARK
from posttrain.train.run import CONFIGS, train


def main(folder: Path) -> int:
    """Train what the folder describes; the first process writes the result, whichever fails writes its error."""
    logging.getLogger("posttrain").addHandler(_notes())
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    config = CONFIGS[job["kind"]].model_validate(job["config"])
    execution = Execution.model_validate(job["execution"])
    rows = read_rows(folder / "rows.jsonl")
    try:
        result = train(
            job["kind"], job["model_dir"], rows, job["out_dir"], config, job["seed"], execution,
            job["teacher_dir"], _tell,
        )  # fmt: skip
    except PosttrainError as error:
        atomic_write(folder / "error.json", json.dumps({"type": type(error).__name__, "message": str(error)}))
        return 1
    if os.environ.get("RANK", "0") == "0":
        atomic_write(folder / "result.json", json.dumps(result))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # without this some processes abort after a good run
    return 0


def _notes() -> logging.Handler:
    """Return a handler whose lines the parent repeats."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{NOTE_MARK} %(message)s"))
    return handler


def _tell(done: int, total: int) -> None:
    print(PROGRESS_MARK, done, total, flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
