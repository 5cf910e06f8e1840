"""The child process in which a verifier runs: one JSON line in per row, one JSON line out.

Started as `python -m reward.verifiers.child` by `reward.verifiers.process`. The standard library only, so that a
restart after a kill is cheap.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from posttrain.core.reasoning import without_thought
from reward.lifetime import adopt_orphans, die_with_parent

_MESSAGE_CHARACTERS = 500


def main() -> None:
    """Load the verifier named by the first line of standard input, then answer rows until it ends."""
    die_with_parent(int(sys.argv[1]))
    adopt_orphans()
    # Last, so that a module where the user stands can be named but hides none that is installed.
    sys.path.append(os.getcwd())
    rows, answers = _private_pipes()
    start = json.loads(rows.readline())
    try:
        _limit_memory(start["memory_mb"])
        verify = load_function(start["spec"])
    except Exception as error:  # whatever the user's file raises when it is imported, the parent says it
        _answer(answers, {"fault": _import_fault(start["spec"], error)})
        return
    _answer(answers, {"ready": True})
    own = os.getpid()
    for number, line in enumerate(rows):
        outcome = _outcome(verify, json.loads(line), start["options"])
        if os.getpid() != own:  # a verifier forked and came back twice: the copy must not answer for the original
            os._exit(0)
        _answer(answers, {"number": number, **outcome})


def load_function(spec: str) -> Callable[..., Any]:
    """Import `FILE.py:FUNCTION` or `package.module:function`.

    Raises:
        ValueError: the spec, the file or the function is not there; also whatever the import raises.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise ValueError(f"verifier {spec!r}: expected FILE.py:FUNCTION or package.module:function")
    module = _import_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"verifier {spec!r}: {place} has no function {name!r}")
    return function


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"verifier file {path} does not exist (looked in {Path.cwd()})")
    sys.path.append(str(path.resolve().parent))
    module_spec = importlib.util.spec_from_file_location(f"verifier_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise ValueError(f"verifier file {path} cannot be imported")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module
    module_spec.loader.exec_module(module)
    return module


def _private_pipes() -> tuple[TextIO, TextIO]:
    """Move the protocol away from file numbers 0 and 1, so that a verifier that prints or reads cannot break it."""
    rows, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return os.fdopen(rows, encoding="utf-8"), os.fdopen(answers, "w", encoding="utf-8")


def _limit_memory(memory_mb: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))


def _answer(answers: TextIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def _outcome(verify: Callable[..., Any], row: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    completion = row["completion"]
    text = without_thought(completion if isinstance(completion, str) else completion[-1]["content"])
    try:
        value = verify(row["prompt"], text, row, **options)
    except (Exception, SystemExit) as error:  # a verifier's fault costs its row, never the run
        return {"error": _describe(error)}
    reason: dict[str, Any] = {}
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], str):
        value, reason = value[0], {"reason": value[1]}
    try:
        score = float(value)
    except (TypeError, ValueError):
        return {"error": f"returned {repr(value)[:80]}, expected a number"}
    if isinstance(value, str) or not math.isfinite(score):
        return {"error": f"returned {repr(value)[:80]}, expected a finite number"}
    return {"score": score, **reason}


def _describe(error: BaseException) -> str:
    text = str(error)[:_MESSAGE_CHARACTERS]
    return text if type(error) is ValueError and text.startswith("verifier") else f"{type(error).__name__}: {text}"


def _import_fault(spec: str, error: Exception) -> str:
    """Say what kept a verifier from being imported: its name, or the line of its file that failed."""
    place = spec.rpartition(":")[0]
    known = type(error) is ValueError and str(error).startswith("verifier")
    if known or (isinstance(error, ModuleNotFoundError) and f"{place}.".startswith(f"{error.name}.")):
        told = _describe(error) if known else f"verifier {spec!r}: {error}"
        return f"{told}. Verifiers are named FILE.py:FUNCTION or package.module:function."
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    frames = [frame for frame in frames if frame.filename != __file__]
    # Where a library fails that the file imports, the line of the file is what the user can mend.
    own = [frame for frame in frames if Path(frame.filename).resolve() == Path(place).resolve()]
    at = (own or frames)[-1:]
    where = "".join(f" ({frame.filename}, line {frame.lineno}: {frame.line})" for frame in at)
    return f"verifier {spec!r} cannot be imported: {_describe(error)}{where}. Mend that, or what it needs."


if __name__ == "__main__":
    main()
