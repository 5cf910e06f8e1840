"""Start a sandbox, hand it a request, and read its report."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

from reward.errors import RewardError
from reward.sandbox.isolation import bubblewrap_command

Method = Literal["namespaces", "bubblewrap", "none"]

_START_S = 20.0
"""An interpreter starts in hundredths of a second, on a busy machine in seconds: that is no answer's fault."""

_ROOT = str(Path(__file__).parents[2])


class SandboxError(RewardError):
    """Report a sandbox that did not work: ours, and never held against an answer."""


@dataclass(frozen=True)
class Limits:
    """What a program may use, all its processes together.

    Attributes:
        timeout_s: seconds of wall time.
        memory_mb: MiB of memory; also the address space of each process.
        num_processes: processes, threads included where the kernel counts.
        disk_mb: MiB of files in /tmp, the only place that can be written.
        output_kb: KiB of standard output, and of standard error.
    """

    timeout_s: float = 5.0
    memory_mb: int = 512
    num_processes: int = 32
    disk_mb: int = 16
    output_kb: int = 1024


def run_sandboxed(method: Method, limits: Limits, *frames: dict[str, Any], mark: str = "") -> dict[str, Any]:
    """Run one request in a new sandbox and return its report; `mark` stands in its processes' command lines.

    Raises:
        SandboxError: no report came, or it says that the sandbox could not be made.
    """
    data = b"".join(_frame(frame) for frame in ({**frames[0], "limits": asdict(limits)}, *frames[1:]))
    with tempfile.TemporaryFile() as noise:
        process = _start(method, limits, noise, mark)
        try:
            report, _ = process.communicate(data, timeout=limits.timeout_s + _START_S)
        except subprocess.TimeoutExpired as error:
            raise SandboxError(f"the sandbox gave no report in {limits.timeout_s + _START_S:g} s") from error
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):  # what it has not read is in the buffer
                        pipe.close()
        noise.seek(0)
        return _read_report(report, process.returncode, noise.read()[-500:].decode("utf-8", "replace").strip())


def _start(method: Method, limits: Limits, noise: IO[bytes], mark: str) -> subprocess.Popen[bytes]:
    code = f"import sys; sys.path.insert(0, {_ROOT!r}); from reward.sandbox.inside import main; main()"
    # Not -I: it would ignore the fixed hash seed, and an answer that prints a set would be right every other time.
    command = [os.path.realpath(sys.executable), "-P", "-s", "-S", "-c", code, method, str(os.getpid()), mark]
    if method == "bubblewrap":
        command = [*bubblewrap_command(limits.disk_mb), *command]
    environment = {"PATH": "/usr/bin:/bin"} if method == "bubblewrap" else {}
    environment |= {"HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONUTF8": "1", "PYTHONHASHSEED": "0"}
    try:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=noise, env=environment)
    except OSError as error:
        raise SandboxError(f"the sandbox cannot be started: {error}") from error


def _frame(content: dict[str, Any]) -> bytes:
    data = json.dumps(content).encode()
    return f"{len(data)}\n".encode() + data


def _read_report(report: bytes, code: int, noise: str) -> dict[str, Any]:
    try:
        told = json.loads(report)
    except ValueError as error:
        raise SandboxError(f"the sandbox ended with exit code {code} and no report. {noise}") from error
    if "sandbox" in told:
        raise SandboxError(told["sandbox"])
    return told


def methods() -> list[Method]:
    """Return the ways of isolating that this machine may have, the strongest first.

    As root we make the namespaces ourselves, and take nothing else: bubblewrap would keep the user root, for whom the
    kernel's limit on processes does not hold, and a fork bomb can outrun any watcher.
    """
    if sys.platform != "linux":
        return []
    with_bubblewrap = os.geteuid() != 0 and shutil.which("bwrap") is not None
    return ["bubblewrap", "namespaces"] if with_bubblewrap else ["namespaces"]
