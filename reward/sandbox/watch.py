"""Watch what all processes of a sandbox use together: limits of the system hold for each process apart."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any

from reward.descendants import descendants

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Watch:
    """Look at a sandbox's processes again and again, until it is over.

    Args:
        proc: directory number of an opened /proc.
        memory_mb: most memory of all processes together, in MiB.
        num_processes: most processes (not threads) at once.
        whole: whether every process in `proc` belongs to the sandbox; else only our descendants do.
    """

    def __init__(self, proc: int, memory_mb: int, num_processes: int, whole: bool) -> None:
        self.deadline = float("inf")
        self.exit_code: int | None = None
        self.reason: dict[str, Any] = {}
        self._proc = proc
        self._memory_mb = memory_mb
        self._num_processes = num_processes
        self._whole = whole

    def stop(self, kind: str, reason: str) -> None:
        """End the sandbox; the first reason stands."""
        self.reason = self.reason or {"kind": kind, "reason": reason, "passed": 0}

    def is_over(self, main_process: int) -> bool:
        """Reap what has ended and look at the limits; true once the main process has ended or a limit is passed."""
        self._reap(main_process)
        members = self._members()
        if self.exit_code is None and time.monotonic() > self.deadline:
            self.stop("timeout", "the time was up")
        if len(members) > self._num_processes:
            self.stop("forbidden", f"it started more than {self._num_processes} processes")
        used = sum(self._resident(member) for member in members)
        if used > self._memory_mb << 20:
            used = sum(self._proportional(member) for member in members)
        if used > self._memory_mb << 20:
            self.stop("memory", f"its processes used more than {self._memory_mb} MiB together")
        return self.exit_code is not None or bool(self.reason)

    def kill_all(self) -> None:
        """Kill every process of the sandbox. In a process namespace of its own the kernel does the rest."""
        for _ in range(1000):
            members = self._members()
            for member in members:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(member, signal.SIGKILL)
            if self._whole or not members:
                return
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass

    def _reap(self, main_process: int) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                child, status = os.waitpid(-1, os.WNOHANG)
                if not child:
                    return
                if child == main_process:
                    self.exit_code = os.waitstatus_to_exitcode(status)
                    if self.exit_code == -signal.SIGXCPU:
                        self.stop("timeout", "the time was up")

    def _members(self) -> list[int]:
        if not self._whole:
            return descendants(os.getpid(), self._proc)
        return [int(name) for name in os.listdir(self._proc) if name.isdecimal() and int(name) != os.getpid()]

    def _resident(self, number: int) -> int:
        fields = self._read(number, "statm").split()
        return int(fields[1]) * _PAGE if len(fields) > 1 else 0

    def _proportional(self, number: int) -> int:
        """Return memory with shared pages divided among those that share them, so that forks count once."""
        for line in self._read(number, "smaps_rollup").splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) << 10
        return self._resident(number)

    def _read(self, number: int, name: str) -> bytes:
        try:
            file = os.open(f"{number}/{name}", os.O_RDONLY, dir_fd=self._proc)
        except OSError:  # it has ended, or does not let itself be looked at
            return b""
        try:
            return os.read(file, 1 << 16)
        except OSError:
            return b""
        finally:
            os.close(file)
