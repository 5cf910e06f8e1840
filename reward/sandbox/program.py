"""A program that reads standard input and writes standard output, run in this process as Python would run it."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading

from reward.sandbox.stand_in import REFUSALS

EXIT_CODES = {"memory": 101, "forbidden": 102, "syntax": 103}
"""How the process says what ended it. A program can lie here, about the class of its own failure alone."""


def run_source(source: str) -> None:
    """Execute a program as `__main__` and end this process with its exit code."""
    code = 0
    try:
        exec(compile(source, "program.py", "exec", dont_inherit=True), {"__name__": "__main__"})
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
        code = _code_of(error)
        with contextlib.suppress(BaseException):
            import traceback  # takes longer to import than most programs run

            traceback.print_exc(limit=-5)
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    os._exit(code & 0xFF)


def _code_of(error: BaseException) -> int:
    if isinstance(error, MemoryError):
        return EXIT_CODES["memory"]
    if isinstance(error, SyntaxError) and error.filename == "program.py":
        return EXIT_CODES["syntax"]
    if isinstance(error, OSError) and error.errno in REFUSALS:
        return EXIT_CODES["forbidden"]
    return 1
