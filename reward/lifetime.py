"""Child processes that end with their parent, so that a killed run leaves nothing behind."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when the process `parent` that started it dies, even by `kill -9`.

    Linux only; elsewhere a child still ends when it next reads from its parent. A parent that is gone already ends
    the child at once.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that a kill of our descendants finds it.

    Linux only; elsewhere a process that has left our session and lost its parent is out of sight.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)
