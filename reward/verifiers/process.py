"""A verifier in a child process that can be killed: time and memory limits hold whatever the verifier does."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

from reward.descendants import kill_tree
from reward.errors import RewardError

Outcome = dict[str, Any]  # {"score": float} (perhaps with "reason") or {"error": str}

_START_SECONDS = 120.0
"""An import of torch or sympy on a loaded machine takes tens of seconds; it is no row's fault."""

_ROWS_PER_WRITE = 64

_NOISE_BYTES = 500
"""Of what a verifier prints, the end is kept: a traceback ends with its reason."""

_LONGEST_ANSWER = 1 << 20
"""A score, or an error of a few hundred characters, is far shorter."""


class Silence(Exception):
    """Tell that the child gave no line: it was too slow, or it ended."""


class VerifierProcess:
    """Ask a verifier in a child process, row by row. Use as a context manager: leaving it ends the child.

    Args:
        spec: `FILE.py:FUNCTION` or `package.module:function`.
        options: keyword arguments for the function, beside prompt, completion and row.
        timeout_s: seconds for one row.
        memory_mb: address space of the child, in MiB.

    Raises:
        RewardError: the verifier cannot be imported.
    """

    def __init__(self, spec: str, options: Mapping[str, Any], timeout_s: float, memory_mb: int) -> None:
        self.timeout_s = timeout_s
        self._spec = spec
        self._unsent: Iterator[bytes] = iter(())
        self._sending = memoryview(b"")
        self._lines: deque[bytes] = deque()
        self._torn = b""
        self._noise = b""
        self._process = self._start()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)
        self._selector.register(self._stderr, selectors.EVENT_READ)
        # A row can be larger than the pipe: writing must not keep us from reading answers and watching the clock.
        os.set_blocking(self._stdin.fileno(), False)
        try:
            self._handshake({"spec": spec, "options": dict(options), "memory_mb": memory_mb})
        except BaseException:
            self.close()
            raise

    def ask(self, lines: Iterable[bytes]) -> Iterator[Outcome]:
        """Send rows (JSON, one a line) and yield their outcomes in order.

        Where the child hangs or dies, the row at fault gets an error outcome and the iteration ends there; such a
        child answers no more.
        """
        lines = list(lines)
        self._send(lines)
        for number in range(len(lines)):
            try:
                outcome = self._outcome(number)
            except Silence as silence:
                yield {"error": str(silence)}
                return
            yield outcome

    def _outcome(self, number: int) -> Outcome:
        line = self._read_line(self.timeout_s)
        try:
            outcome = json.loads(line)
            if outcome.pop("number") == number:
                return outcome
        except (ValueError, KeyError, AttributeError, TypeError):
            pass
        raise Silence(f"the verifier wrote into the pipe of its answers: {line[:80]!r}")

    def close(self) -> None:
        """Kill the child and everything it started, and free its pipes; closing twice is harmless."""
        if self._process.returncode is None:
            kill_tree(self._process.pid)
            self._process.wait()
        with contextlib.suppress(ProcessLookupError):  # what is left where it ended by itself
            os.killpg(self._process.pid, signal.SIGKILL)
        self._selector.close()
        for pipe in (self._stdout, self._stdin, self._stderr):
            pipe.close()

    def __enter__(self) -> VerifierProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        return subprocess.Popen(
            # -P: a file called json.py where the user stands must not take the place of the library's.
            [sys.executable, "-P", "-m", "reward.verifiers.child", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A pipe, not a file: a verifier that prints without end must not fill the disk.
            stderr=subprocess.PIPE,
            bufsize=0,
            env=environment,
            # A session of its own: a kill reaches whatever the verifier has started.
            start_new_session=True,
        )

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def _stderr(self) -> IO[bytes]:
        assert self._process.stderr is not None
        return self._process.stderr

    def _handshake(self, start: dict[str, Any]) -> None:
        self._send([json.dumps(start).encode() + b"\n"])
        try:
            answer = json.loads(self._read_line(_START_SECONDS))
        except Silence as silence:
            raise RewardError(f"verifier {self._spec!r} did not start: {silence}. {self._last_noise()}") from silence
        if "fault" in answer:
            raise RewardError(answer["fault"])

    def _send(self, lines: Iterable[bytes]) -> None:
        self._unsent = iter(lines)
        if self._stdin not in {key.fileobj for key in self._selector.get_map().values()}:
            self._selector.register(self._stdin, selectors.EVENT_WRITE)

    def _read_line(self, seconds: float) -> bytes:
        deadline = time.monotonic() + seconds
        while not self._lines:
            left = deadline - time.monotonic()
            ready = self._selector.select(left) if left > 0 else []
            if not ready:
                raise Silence(f"timeout: no answer in {seconds:g} s")
            for key, _ in ready:
                if key.fileobj is self._stdin:
                    self._write_some()
                elif key.fileobj is self._stderr:
                    self._read_noise()
                else:
                    self._read_some()
        return self._lines.popleft()

    def _write_some(self) -> None:
        if not self._sending:
            self._sending = memoryview(b"".join(itertools.islice(self._unsent, _ROWS_PER_WRITE)))
        if not self._sending:
            self._selector.unregister(self._stdin)
            return
        try:
            sent = os.write(self._stdin.fileno(), self._sending)
        except BlockingIOError:
            return
        except BrokenPipeError:
            # The child is gone; reading its last words tells how.
            self._selector.unregister(self._stdin)
            return
        self._sending = self._sending[sent:]

    def _read_noise(self) -> None:
        part = os.read(self._stderr.fileno(), 1 << 16)
        self._noise = (self._noise + part)[-_NOISE_BYTES:]
        if not part:
            self._selector.unregister(self._stderr)

    def _read_some(self) -> None:
        part = os.read(self._stdout.fileno(), 1 << 16)
        if len(self._torn) > _LONGEST_ANSWER:
            raise Silence("the verifier wrote into the pipe of its answers, without end")
        if not part:
            raise Silence(self._how_it_ended())
        *lines, self._torn = (self._torn + part).split(b"\n")
        self._lines.extend(lines)

    def _how_it_ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
        code = self._process.returncode
        if code is None:
            return "crashed: the verifier closed its pipe"
        if code < 0:
            return f"crashed: the verifier's process was ended by {signal.Signals(-code).name}"
        return f"crashed: the verifier ended its process with exit code {code}"

    def _last_noise(self) -> str:
        os.set_blocking(self._stderr.fileno(), False)
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._stderr.fileno(), 1 << 16):
                self._noise = (self._noise + part)[-_NOISE_BYTES:]
        return self._noise.decode("utf-8", "replace").strip()
