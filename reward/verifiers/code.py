"""Model-written Python, run against the row's tests in a sandbox."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from reward.sandbox.launch import Limits, Method, SandboxError
from reward.sandbox.probe import choose_method
from reward.sandbox.run import CodeOutcome, run_cases, run_tests
from reward.verifiers.fences import fenced_blocks, indented_blocks

# The first word of a fence's info string: python, Python3, py, python:solution.py, python3.11, {.python}, solution.py
_PYTHON = re.compile(r"[{.\s]*(?:i?python|py)[\d.]*(?![\w+#-])|[\w./-]+\.py\b", re.IGNORECASE)


def verify(
    prompt: Sequence[Mapping[str, Any]],
    completion: str,
    row: Mapping[str, Any],
    column: str = "tests",
    partial: bool = False,
    program_timeout_s: float = 5.0,
    program_memory_mb: int = 512,
    uncontained: bool = False,
) -> tuple[float, str]:
    """Give 1 where the answer's code passes all tests of its row; the reason says what went wrong first.

    The code is what `extract_code` finds. The tests, in `column`, are
    Python with asserts or functions `test_…` (one text or several), or cases `{"stdin", "stdout"}` of a program. Where
    the row has an `entry_point`, that is the name asked for, and a `check(candidate)` of the tests is called with it.
    Reasons begin with the class: `syntax`, `test_failed`, `timeout`, `memory` or `forbidden`.

    Args:
        partial: give the share of tests passed instead. Tests are the asserts and calls at the top level and the test
            functions, or the cases.
        program_timeout_s: seconds of all tests of a row together; the time limit of the verifier has to be longer.
        program_memory_mb: memory of all processes of a program together, in MiB.
        uncontained: run the code without isolation where the machine offers none. It can then read and change whatever
            you can.

    Raises:
        SandboxError: there is no isolation, or it failed; the row has then no score.
        BrokenTests: the tests are at fault, whatever the answer.
        KeyError: the row has no tests.
        ValueError: the tests have none of these forms.
    """
    limits = Limits(timeout_s=program_timeout_s, memory_mb=program_memory_mb)
    method = _method(uncontained)
    source = extract_code(completion, row.get("entry_point"))
    tests = [row[column]] if isinstance(row[column], str) else row[column]
    if not isinstance(tests, list) or not tests:
        raise ValueError(f"{column} is {str(tests)[:80]!r}; expected Python, or a list of cases")
    if all(isinstance(test, str) for test in tests):
        outcome = run_tests(source, tests, method, limits, row.get("entry_point"))
    else:
        outcome = run_cases(source, [_case(test, column) for test in tests], method, limits)
    score = outcome.num_passed / outcome.num_tests if partial else float(outcome.kind == "passed")
    return score, _reason(outcome) + (" (uncontained)" if method == "none" else "")


def _method(uncontained: bool) -> Method:
    try:
        return choose_method()
    except SandboxError:
        if uncontained:
            return "none"
        raise


def extract_code(text: str, name: str | None = None) -> str:
    """Return the code of an answer as a reader of its Markdown sees it (CommonMark 0.31), without its fence.

    It is the last fenced block that is labelled as Python; where no block is, the last without a label, and where the
    text has no fence and is no Python itself, its last indented block. All of the text if it has no block. A block that
    the end of the text cuts off counts as one.

    Args:
        name: the name that is asked for: blocks that define it are taken before those that do not, as the definition
            is before an example of its use.
    """
    blocks = fenced_blocks(text)
    if blocks:
        python = [block.text for block in blocks if _PYTHON.match(block.label)]
        found = python or [block.text for block in blocks if not block.label]
    else:
        found = [] if _is_python(text) else indented_blocks(text)
    if name:
        defines = re.compile(
            rf"^(?:async\s+def|def|class)\s+{re.escape(name)}\b|^{re.escape(name)}\s*[:=]", re.MULTILINE
        )
        found = [block for block in found if defines.search(block)] or found
    return found[-1] if found else text


def _is_python(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _case(test: Any, column: str) -> dict[str, str]:
    given = test if isinstance(test, Mapping) else {}
    stdin, stdout = given.get("stdin", given.get("input")), given.get("stdout", given.get("output"))
    if not isinstance(stdin, str) or not isinstance(stdout, str):
        raise ValueError(f"{column} holds {str(test)[:80]!r}; expected {{'stdin': text, 'stdout': text}}")
    return {"stdin": stdin, "stdout": stdout}


def _reason(outcome: CodeOutcome) -> str:
    counted = f"{outcome.num_passed} of {outcome.num_tests} tests passed"
    return counted if outcome.kind == "passed" else f"{outcome.kind}: {counted}; {outcome.reason}"
