"""What the processes of one training share through their job's folder: rows tokenised once, work done in shares.

No process group is used: it comes later, and its time limit is not for work like this.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from datasets import Dataset, load_from_disk

from posttrain.train.batches import Array
from posttrain.train.intake import Intake

FOLDER_VARIABLE = "POSTTRAIN_JOB"
"""Environment variable that names the folder in a process that `launch` started."""
POLL_SECONDS = 0.1


def job_folder() -> Path | None:
    """Return the folder of the job that this process belongs to; None where nothing was launched."""
    name = os.environ.get(FOLDER_VARIABLE)
    return None if name is None else Path(name)


def store_rows(folder: Path, dataset: Dataset, intake: Intake) -> None:
    """Write tokenised rows where processes find them, before they start."""
    dataset.save_to_disk(str(folder / "dataset"), num_shards=1)
    counts = {"num_rows": intake.num_rows, "num_truncated": intake.num_truncated, "dropped": intake.dropped}
    (folder / "intake.json").write_text(json.dumps(counts), encoding="utf-8")


def tokenized(make: Callable[[], tuple[Dataset, Intake]]) -> tuple[Dataset, Intake]:
    """Return a training's rows: those that the parent has tokenised, mapped from disk; else what `make` gives."""
    folder = job_folder()
    if folder is None:
        return make()
    counts = json.loads((folder / "intake.json").read_text(encoding="utf-8"))
    counts["dropped"] = Counter(counts["dropped"])
    return load_from_disk(str(folder / "dataset")), Intake(**counts)


def in_shares(num_rows: int, compute: Callable[[range], Array]) -> Array:
    """Let each process compute on its own stretch of the rows, and give every one the whole result.

    Args:
        compute: from row numbers to numbers, those of one row after those of the row before; rows must not depend on
            each other.
    """
    folder = job_folder()
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if folder is None or num_rows < size:
        return compute(range(num_rows))
    bounds = [num_rows * number // size for number in range(size + 1)]
    places = [folder / f"share-{number}.npy" for number in range(size)]
    work = folder / f"share-{rank}.part.npy"
    np.save(work, compute(range(bounds[rank], bounds[rank + 1])))
    os.rename(work, places[rank])
    while not all(place.is_file() for place in places):  # a process that dies ends them all
        time.sleep(POLL_SECONDS)
    return np.concatenate([np.load(place) for place in places])
