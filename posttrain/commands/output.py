"""Standard output holds a command's result alone: whatever else is written there goes to standard error."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def only_results() -> Iterator[None]:
    """Send what this process and its children write to standard output to standard error, while the block runs.

    Engines start processes that inherit descriptor 1 and write their logs there (vLLM), so that a change of
    `sys.stdout` alone does not reach them.
    """
    with contextlib.redirect_stdout(sys.stderr):
        try:
            sys.__stdout__.flush()  # type: ignore[union-attr]
            kept = os.dup(1)
            os.dup2(2, 1)
        except (OSError, AttributeError, ValueError):  # one of them is closed: nobody reads it
            yield
            return
        try:
            yield
        finally:
            # C libraries keep what they wrote in buffers of their own; it belongs where the block's output went.
            with contextlib.suppress(OSError, ValueError):
                sys.__stdout__.flush()  # type: ignore[union-attr]
            os.dup2(kept, 1)
            os.close(kept)
