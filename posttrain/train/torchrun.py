"""torch's launcher (`torch.distributed.run`), which here also writes down which processes failed and how."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from posttrain.core.files import atomic_write

FAILURES = "failures.json"


def main(folder: Path, arguments: list[str]) -> int:
    """Start and watch processes; when one fails, end the others and note exit codes by rank (negative: a signal)."""
    try:
        run.main(arguments)
    except ChildFailedError as error:
        codes = {str(rank): failure.exitcode for rank, failure in error.failures.items()}
        atomic_write(folder / FAILURES, json.dumps(codes))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
