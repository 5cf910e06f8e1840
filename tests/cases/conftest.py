"""What cases share: a command run as a person runs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import pytest

sys.path.append(str(Path(__file__).parents[1] / "real"))


class Ran(NamedTuple):
    """What a command gave: its exit code, standard output and standard error."""

    code: int
    out: str
    said: str


@pytest.fixture
def run_command(capsys):
    """Return a function that runs `posttrain` with these arguments in this process."""
    from posttrain.cli import main

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as ended:  # argparse
            code = int(ended.code or 0)
        seen = capsys.readouterr()
        return Ran(code, seen.out, seen.err)

    return run
