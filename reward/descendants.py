"""Find what a process has started, and what that has started, by way of /proc."""

from __future__ import annotations

import contextlib
import os
import signal
import time


def descendants(root: int, proc: int | None = None) -> list[int]:
    """Return the numbers of the living processes below `root`, itself left out; empty where there is no /proc.

    A process whose own parent has ended counts only where a living ancestor below `root`, or `root`, has asked the
    kernel to become the parent of such orphans.

    Args:
        proc: directory number of an opened /proc; opened here when None.
    """
    parents = _parents(proc)
    below: set[int] = set()
    newest = {root}
    while newest:
        newest = {number for number, parent in parents.items() if parent in newest} - below
        below |= newest
    return sorted(below)


def kill_tree(root: int, seconds: float = 2.0) -> None:
    """Kill a process and all its descendants, those too that have left its session.

    The process is stopped first and killed last: while it lives, orphans are handed to it and stay in sight.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(root, signal.SIGSTOP)
    deadline = time.monotonic() + seconds
    while (below := descendants(root)) and time.monotonic() < deadline:
        for number in below:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(number, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(root, signal.SIGKILL)


def _parents(proc: int | None) -> dict[int, int]:
    """Return the parent of every process that is not a zombie."""
    parents = {}
    try:
        names = os.listdir("/proc" if proc is None else proc)
    except OSError:
        return {}
    for name in names:
        if name.isdecimal():
            with contextlib.suppress(OSError, IndexError):
                state, parent = _stat(name, proc)
                if state not in (b"Z", b"X"):
                    parents[int(name)] = parent
    return parents


def _stat(name: str, proc: int | None) -> tuple[bytes, int]:
    path = f"/proc/{name}/stat" if proc is None else f"{name}/stat"
    file = os.open(path, os.O_RDONLY, dir_fd=proc)
    try:
        # The name of the program comes before these fields, in brackets, and may hold brackets and spaces itself.
        fields = os.read(file, 4096).rpartition(b")")[2].split()
    finally:
        os.close(file)
    return fields[0], int(fields[1])
