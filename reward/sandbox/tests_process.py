"""The process of the tests: run them against the stand-ins of an answer. No line of the answer runs here."""

from __future__ import annotations

import ast
import builtins
import signal
import sys
import types
from collections.abc import Iterator
from typing import Any

from reward.sandbox.channel import Broken, Channel
from reward.sandbox.stand_in import AnswerClient

Verdict = dict[str, Any]

BUILT_IN_NAMES = frozenset(dir(builtins))

NOTHING = "the tests test nothing: write asserts, or functions test_… without arguments"


def judge(channel: Channel, sources: list[str], entry_point: str | None) -> Verdict:
    """Run the tests and return the verdict: `{"passed", "total", "kind"?, "reason"?}`, or `{"broken": why}`.

    `broken` is a fault of the tests themselves, which no answer could mend.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a signal of the answer ends this process, and raises nothing in it
    try:
        trees = [ast.parse(source) for source in sources]
    except (SyntaxError, ValueError) as error:
        return {"broken": f"the tests are not Python: {error}"}
    statements = list(_statements(trees, entry_point))
    total = sum(map(_is_case, statements))
    if not total:
        return {"broken": NOTHING}
    client = AnswerClient(channel)
    try:
        names = client.names()
    except BaseException as error:  # the answer's code raised it, whatever it is
        return {"passed": 0, "total": total, **_failure("running the answer", error)}
    return {"total": total, **_run(statements, _namespace(names, entry_point))}


def _is_case(node: ast.stmt) -> bool:
    """Tell a test among the statements: an assert, a call such as check(f), a loop with asserts, a test function."""
    if isinstance(node, ast.FunctionDef):
        return node.name.startswith("test")
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call) and ast.unparse(node.value.func) not in BUILT_IN_NAMES
    if isinstance(node, ast.ClassDef | ast.AsyncFunctionDef):
        return False
    return any(isinstance(part, ast.Assert | ast.Raise) for part in ast.walk(node))


def _namespace(names: dict[str, Any], entry_point: str | None) -> dict[str, Any]:
    """Bind the answer's names for the tests, but none that hides a built-in one: an answer's own `all` proves nothing.

    The name that the task asks for, `entry_point`, is bound whatever it is. Names such as `__builtins__` would put the
    answer in the place of what the tests run on.
    """
    names = {name: value for name, value in names.items() if name.isidentifier() and not name.startswith("__")}
    hidden = BUILT_IN_NAMES - {entry_point}
    module = types.ModuleType("solution")
    module.__dict__.update(names)
    module.__dict__["__all__"] = list(names)
    sys.modules["solution"] = module
    return {"__name__": "tests", **{name: value for name, value in names.items() if name not in hidden}}


def _run(statements: list[ast.stmt], namespace: dict[str, Any]) -> Verdict:
    passed = 0
    failure: Verdict = {}
    for node in statements:
        case = _is_case(node)
        try:
            exec(compile(ast.Module([node], []), "tests.py", "exec", dont_inherit=True), namespace)
            if isinstance(node, ast.FunctionDef) and case:
                _call(namespace[node.name])
            passed += case
        except BaseException as error:  # an answer may raise anything, and a test too
            if isinstance(error, ImportError) and _imports_a_library(node):
                return {"broken": f"the tests cannot run: {type(error).__name__}: {error}"}
            failure = failure or _failure(ast.unparse(node)[:200], error)
            if not case or isinstance(error, Broken):
                break  # what comes after needs what has failed
    return {"passed": passed, **failure}


def _imports_a_library(node: ast.stmt) -> bool:
    if isinstance(node, ast.Import):
        return all(alias.name != "solution" for alias in node.names)
    return isinstance(node, ast.ImportFrom) and node.module != "solution"


def _statements(trees: list[ast.Module], entry_point: str | None) -> Iterator[ast.stmt]:
    """Yield the tests' statements; a `check` that nobody calls (HumanEval's form) is called with the entry point."""
    body = [node for tree in trees for node in tree.body]
    yield from body
    defined = any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in body)
    called = any(isinstance(node, ast.Expr) and "check(" in ast.unparse(node) for node in body)
    if defined and not called and entry_point:
        yield ast.parse(f"check({entry_point})").body[0]


def _call(function: Any) -> None:
    if function.__code__.co_argcount:
        raise TypeError("a test function that takes arguments needs a framework, and there is none")
    function()


def _failure(where: str, error: BaseException) -> Verdict:
    if isinstance(error, SyntaxError) and where == "running the answer":
        return {"kind": "syntax", "reason": str(error)[:500]}
    kind = getattr(error, "held_back", "test_failed")
    return {"kind": kind, "reason": f"{where}: {type(error).__name__}: {error}"[:800]}
