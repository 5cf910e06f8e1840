"""Run an answer against its tests, and say how it went."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from reward.errors import RewardError
from reward.sandbox.launch import Limits, Method, SandboxError, run_sandboxed
from reward.sandbox.program import EXIT_CODES

Kind = Literal["passed", "syntax", "test_failed", "timeout", "memory", "forbidden"]

_ATTEMPTS = 3
"""A sandbox that failed is made anew: what fails twice more is no accident."""

_KINDS = {code: cast(Kind, name) for name, code in EXIT_CODES.items()}


class BrokenTests(RewardError):
    """Report tests that no answer could pass: not Python, or nothing in them that tests."""


@dataclass(frozen=True)
class CodeOutcome:
    """How an answer did.

    Attributes:
        kind: `passed`, or the class of its first failure.
        num_passed: tests passed.
        num_tests: tests in all.
        reason: the first failure in words.
        seconds: wall time in the sandbox, without its start.
    """

    kind: Kind
    num_passed: int
    num_tests: int
    reason: str
    seconds: float


def run_tests(
    source: str, tests: Sequence[str], method: Method, limits: Limits, entry_point: str | None = None
) -> CodeOutcome:
    """Run Python tests on an answer.

    The answer's code runs in one process, the tests in another, which works on stand-ins for the answer's objects; the
    verdict comes from the second. So an answer cannot pass by ending early, by patching what tests use, or by printing
    what a report looks like: it must give the values that the tests expect. What remains: an object of the answer's own
    class decides by itself how it compares with another object of the answer.

    Args:
        source: Python of the answer.
        tests: Python sources with asserts, or functions `test_…`; they see the answer's names, and `solution` as a
            module. Standard library only.
        entry_point: name that the task asks for; the tests see it even where it hides a built-in function.

    Raises:
        BrokenTests: the tests cannot be run whatever the answer.
        SandboxError: the sandbox failed, three times.
    """
    told = _insist(
        lambda: run_sandboxed(
            method,
            limits,
            {"mode": "tests", "source": source},
            {"sources": list(tests), "entry_point": entry_point},
        )
    )
    if "broken" in told:
        raise BrokenTests(told["broken"])
    total = max(int(told.get("total", 1)), 1)
    passed = int(told["passed"])
    kind: Kind = "passed" if passed == total and "kind" not in told else told.get("kind", "test_failed")
    return CodeOutcome(kind, passed, total, str(told.get("reason", "")), told["seconds"])


def run_cases(source: str, cases: Sequence[Mapping[str, str]], method: Method, limits: Limits) -> CodeOutcome:
    """Run an answer as a program once for each case, and compare what it writes with what it should.

    Lines are compared without white space at their ends. The time limit is for all cases together.

    Args:
        source: Python of the answer.
        cases: `stdin` and `stdout` of each.

    Raises:
        SandboxError: the sandbox failed, three times.
    """
    passed, seconds = 0, 0.0
    kind: Kind = "passed"
    reason = ""
    for number, case in enumerate(cases, start=1):
        left = limits.timeout_s - seconds
        told = _run_program(source, case["stdin"], method, limits, left) if left > 0 else _TIME_UP
        seconds += told["seconds"]
        case_kind, case_reason = _judge_case(told, case["stdout"])
        passed += case_kind == "passed"
        if kind == "passed" and case_kind != "passed":
            kind, reason = case_kind, f"case {number}: {case_reason}"
    return CodeOutcome(kind, passed, len(cases), reason, seconds)


_TIME_UP: dict[str, Any] = {"kind": "timeout", "reason": "the time was up", "seconds": 0.0}


def _run_program(source: str, stdin: str, method: Method, limits: Limits, timeout_s: float) -> dict[str, Any]:
    shorter = Limits(**{**vars(limits), "timeout_s": timeout_s})
    return _insist(lambda: run_sandboxed(method, shorter, {"mode": "program", "source": source, "stdin": stdin}))


def _judge_case(told: Mapping[str, Any], expected: str) -> tuple[Kind, str]:
    if "kind" in told:
        return told["kind"], told["reason"]
    if told["exit"] != 0:
        last = told["stderr"].strip().splitlines()[-1:] or [f"it ended with exit code {told['exit']}"]
        return _KINDS.get(told["exit"], "test_failed"), last[0][:500]
    if _lines(told["stdout"]) == _lines(expected):
        return "passed", ""
    return "test_failed", f"it wrote {told['stdout'][:200]!r}, expected {expected[:200]!r}"


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.replace("\r\n", "\n").rstrip().split("\n")]


def _insist(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    for _ in range(_ATTEMPTS - 1):
        try:
            return run()
        except SandboxError:
            continue
    return run()
