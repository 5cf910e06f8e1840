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

from datasets import Dataset, concatenate_datasets, load_from_disk

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


def in_shares(dataset: Dataset, compute: Callable[[Dataset], Dataset]) -> Dataset:
    """Let each process compute on its own stretch of the rows, and give every one the whole result.

    Args:
        compute: from rows to the same rows with more columns, in the same order; rows must not depend on each other.
    """
    folder = job_folder()
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if folder is None or len(dataset) < size:
        return compute(dataset)
    bounds = [len(dataset) * number // size for number in range(size + 1)]
    own = compute(dataset.select(range(bounds[rank], bounds[rank + 1])))
    places = [folder / f"share-{number}" for number in range(size)]
    own.save_to_disk(f"{places[rank]}.part", num_shards=1)
    os.rename(f"{places[rank]}.part", places[rank])
    while not all(place.is_dir() for place in places):  # a process that dies ends them all
        time.sleep(POLL_SECONDS)
    return concatenate_datasets([load_from_disk(str(place)) for place in places])
