"""The first process of a sandbox: make the place, start the answer and its tests in it, watch, report.

Started by `reward.sandbox.launch`, with the standard library alone. A request comes as frames on standard input: the
second, with the tests, is read only after the process of the answer has been forked off, so that no copy of them is in
its memory. The report goes to standard output, which neither process has.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from reward.lifetime import adopt_orphans, die_with_parent
from reward.sandbox import isolation, seccomp
from reward.sandbox.answer import AnswerServer
from reward.sandbox.channel import Channel
from reward.sandbox.program import run_source
from reward.sandbox.tests_process import judge
from reward.sandbox.watch import Watch

_TICK_S = 0.02


def main() -> None:
    """Serve one request."""
    method, parent = sys.argv[1], int(sys.argv[2])
    # All of ours is imported. Inside, the answer might be able to make this folder and put modules for the tests there.
    sys.path.pop(0)
    if method != "bubblewrap":  # which sees to it itself
        die_with_parent(parent)
    requests, report = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(nothing, number)
    request = _read_frame(requests)
    try:
        watch = _isolate(method, request)
    except OSError as error:
        _write_all(report, json.dumps({"sandbox": str(error)}).encode())
        return
    run = _run_tests if request["mode"] == "tests" else _run_program
    began = time.monotonic()
    outcome = run(request, requests, watch)
    _write_all(report, json.dumps({**outcome, "seconds": time.monotonic() - began}).encode())
    watch.kill_all()
    os._exit(0)  # the kernel kills whatever else is in our process namespace


def _isolate(method: str, request: dict[str, Any]) -> Watch:
    limits = request["limits"]
    if method == "namespaces":
        proc = isolation.enter_namespaces(limits["disk_mb"])
        isolation.drop_privileges()
    else:
        proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        isolation.set_dumpable(False)
        adopt_orphans()
    try:
        seccomp.restrict()
    except OSError:
        if method != "none":
            raise
    return Watch(proc, limits["memory_mb"], limits["num_processes"], whole=method != "none")


def _run_tests(request: dict[str, Any], requests: int, watch: Watch) -> dict[str, Any]:
    to_answer, to_tests = os.pipe(), os.pipe()
    watch.deadline = time.monotonic() + request["limits"]["timeout_s"]
    _fork(lambda: _serve_answer(request["source"], to_answer[0], to_tests[1]), (to_answer[0], to_tests[1]), request)
    tests = _read_frame(requests)
    verdict = os.pipe()
    ends = (to_tests[0], to_answer[1], verdict[1])
    main_process = _fork(lambda: _judge(tests, *ends), ends, request)
    for number in (*to_answer, *to_tests, verdict[1]):
        os.close(number)
    told = _collect({verdict[0]: 1 << 20}, main_process, watch)
    if watch.reason:
        return watch.reason
    try:
        return json.loads(told[verdict[0]])
    except ValueError:
        return {"kind": "test_failed", "reason": "the process of the tests was ended by a signal", "passed": 0}


def _serve_answer(source: str, read: int, write: int) -> None:
    AnswerServer(Channel(read, write)).run(source)


def _judge(tests: dict[str, Any], read: int, write: int, verdict: int) -> None:
    isolation.set_dumpable(False)  # the answer has the same user: it must not look in here
    told = judge(Channel(read, write), tests["sources"], tests["entry_point"])
    _write_all(verdict, json.dumps(told).encode())


def _run_program(request: dict[str, Any], requests: int, watch: Watch) -> dict[str, Any]:
    given, out, err = os.pipe(), os.pipe(), os.pipe()

    def start() -> None:
        for number, place in ((given[0], 0), (out[1], 1), (err[1], 2)):
            os.dup2(number, place)
        for number in (given[0], out[1], err[1]):
            os.close(number)
        run_source(request["source"])

    watch.deadline = time.monotonic() + request["limits"]["timeout_s"]
    main_process = _fork(start, (given[0], out[1], err[1]), request)
    for number in (given[0], out[1], err[1]):
        os.close(number)
    most = request["limits"]["output_kb"] << 10
    told = _collect({out[0]: most, err[0]: most}, main_process, watch, (given[1], request["stdin"].encode()))
    texts = {name: told[end].decode("utf-8", "replace") for name, end in (("stdout", out[0]), ("stderr", err[0]))}
    return {**(watch.reason or {"exit": watch.exit_code}), **texts}


def _fork(work: Callable[[], None], keep: tuple[int, ...], request: dict[str, Any]) -> int:
    """Start a process that has the given file numbers and no other of ours."""
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        isolation.set_dumpable(True)
        os.dup2(0, 2)  # what it prints to standard error is no report of ours
        first = 3
        for number in sorted(keep):
            os.closerange(first, number)
            first = number + 1
        os.closerange(first, 256)
        limits = request["limits"]
        isolation.limit_resources(limits["timeout_s"], limits["memory_mb"], limits["num_processes"], limits["disk_mb"])
        work()
    finally:
        os._exit(70)  # reached only where `work` itself has failed or is done


def _collect(
    most: dict[int, int], main_process: int, watch: Watch, given: tuple[int, bytes] | None = None
) -> dict[int, bytes]:
    """Read pipes until the main process has ended, the time is up, or a limit is passed."""
    told = dict.fromkeys(most, b"")
    with selectors.DefaultSelector() as selector:
        for number in most:
            selector.register(number, selectors.EVENT_READ)
        feed = _Feed(selector, *given) if given else None
        while not watch.is_over(main_process):
            # Once all pipes are closed the end is near: a whole tick more would be most of a short test's time.
            for key, _ in selector.select(_TICK_S if selector.get_map() else _TICK_S / 20):
                if feed is not None and key.fd == feed.number:
                    feed.write()
                else:
                    _read(selector, key.fd, told, most, watch)
        while not watch.reason and (ready := selector.select(0)):
            for key, _ in ready:
                if feed is not None and key.fd == feed.number:
                    feed.stop()
                else:
                    _read(selector, key.fd, told, most, watch)
    return told


def _read(
    selector: selectors.BaseSelector, number: int, told: dict[int, bytes], most: dict[int, int], watch: Watch
) -> None:
    part = os.read(number, 1 << 16)
    told[number] += part
    if not part:
        selector.unregister(number)
    elif len(told[number]) > most[number]:
        told[number] = told[number][: most[number]]
        watch.stop("forbidden", f"it wrote more than {most[number] >> 10} KiB of output")


class _Feed:
    """Write what a program is to read, as far as its pipe takes it."""

    def __init__(self, selector: selectors.BaseSelector, number: int, data: bytes) -> None:
        self.number = number
        self._selector = selector
        self._left = memoryview(data)
        os.set_blocking(number, False)
        selector.register(number, selectors.EVENT_WRITE)

    def write(self) -> None:
        try:
            self._left = self._left[os.write(self.number, self._left) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # the program reads no more
            self._left = self._left[:0]
        if not self._left:
            self.stop()

    def stop(self) -> None:
        self._selector.unregister(self.number)
        os.close(self.number)


def _read_frame(number: int) -> dict[str, Any]:
    """Read one frame, and not a byte beyond: its length as a line, then JSON."""
    length = b""
    while not length.endswith(b"\n"):
        byte = os.read(number, 1)
        if not byte:
            raise SystemExit("the request ended early")
        length += byte
    data = bytearray()
    while len(data) < int(length):
        part = os.read(number, int(length) - len(data))
        if not part:
            raise SystemExit("the request ended early")
        data += part
    return json.loads(data)


def _write_all(number: int, data: bytes) -> None:
    left = memoryview(data)
    with contextlib.suppress(BrokenPipeError):
        while left:
            left = left[os.write(number, left) :]


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    main()
