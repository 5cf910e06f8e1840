"""torch's launcher (`torch.distributed.run`), which here also writes down which processes failed and how.

It ends with the process that started it, and its own processes end with it, even by `kill -9`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from posttrain.core.files import atomic_write
from posttrain.train.launch import FAILURES, LAUNCHER_VARIABLE
from reward.lifetime import die_with_parent


def main(parent: int, folder: Path, arguments: list[str]) -> int:
    """Start and watch processes; when one fails, end the others and note exit codes by rank (negative: a signal).

    Args:
        parent: number of the process that started this one.
        folder: of the job.
        arguments: of torchrun.
    """
    die_with_parent(parent)
    os.environ[LAUNCHER_VARIABLE] = str(os.getpid())
    try:
        run.main(arguments)
    except ChildFailedError as error:
        codes = {str(rank): failure.exitcode for rank, failure in error.failures.items()}
        atomic_write(folder / FAILURES, json.dumps(codes))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
