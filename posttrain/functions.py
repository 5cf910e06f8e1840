"""Functions named in a recipe: `FILE.py:FUNCTION` or `package.module:function`."""

from __future__ import annotations

import ast
import difflib
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from posttrain.core.errors import DataError
from posttrain.core.files import sha256_file
from reward.sandbox.probe import choose_method
from reward.verifiers.child import load_function as import_function
from reward.verifiers.options import option_faults
from reward.verifiers.settings import BUILT_INS

EXTRAS = {"math": ("math_verify", "math"), "json_schema": ("jsonschema", "json-schema")}
"""What built-in verifiers need besides: the module, and the extra that brings it."""


def function_content(spec: str | None) -> str | None:
    """Return what names a function `FILE.py:NAME` or `package.module:name`: the hash of its file, and its own name.

    Raises:
        DataError: There is no such file or module.
    """
    if spec is None:
        return None
    return f"{sha256_file(function_file(spec))}:{BUILT_INS.get(spec, spec).rpartition(':')[2]}"


def function_file(spec: str) -> Path:
    """Return the file of a function named `FILE.py:NAME` or `package.module:name`, or of a built-in verifier.

    Raises:
        DataError: There is no such file or module, or it does not have the name.
    """
    spec = BUILT_INS.get(spec, spec)
    place, separator, name = spec.rpartition(":")
    if not separator or not name.isidentifier():
        raise DataError(
            f"'{spec}' names no function; write FILE.py:FUNCTION or package.module:function, or a built-in verifier: "
            f"{', '.join(BUILT_INS)}"
        )
    if place.endswith(".py"):
        path = Path(place)
    else:
        try:
            found = importlib.util.find_spec(place)
        except Exception:  # the name is empty or begins with a dot, or whatever the package raises when it is imported
            found = None
        path = Path(found.origin) if found and found.origin else Path(place)
    if not path.is_file():
        raise DataError(f"'{spec}': there is no file {path}; write FILE.py:FUNCTION or package.module:function")
    _check_name(path, name)
    return path


def check_options(spec: str, options: Mapping[str, Any]) -> None:
    """Look, without running it, whether a verifier takes these keyword arguments beside prompt, completion and row.

    Of a built-in verifier the values are looked at too. A function that is made rather than written with `def`, or
    that a decorator changes, cannot be looked at, and takes what it is given.

    Raises:
        DataError: It does not take one of them, or cannot use its value; all of them are named.
    """
    faults = option_faults(spec, options)
    written = _written(spec)
    if written is not None and written.kwarg is None:
        places = len(written.posonlyargs)
        takes = [argument.arg for argument in [*written.args[max(0, 3 - places) :], *written.kwonlyargs]]
        wrong = [option for option in options if option not in takes]
        if wrong:
            faults.append(f"'{spec}' takes no option {', '.join(wrong)}; it takes: {', '.join(takes) or 'none'}")
    if faults:
        raise DataError("; ".join(faults))


def check_call(spec: str, options: Mapping[str, Any]) -> None:
    """Look, without running it, whether a verifier can be called with prompt, completion, row and these options.

    Raises:
        DataError: It takes fewer than these three, or needs more than it is given.
    """
    written = _written(spec)
    if written is None:
        return
    places = [*written.posonlyargs, *written.args]
    if len(places) < 3 and written.vararg is None:
        names = ", ".join(argument.arg for argument in places)
        raise DataError(f"'{spec}' takes ({names}); a verifier is called with (prompt, completion, row)")
    with_default = {argument.arg for argument in places[len(places) - len(written.defaults) :]}
    with_default |= {a.arg for a, value in zip(written.kwonlyargs, written.kw_defaults, strict=True) if value}
    needed = [argument.arg for argument in [*places[3:], *written.kwonlyargs]]
    missing = [name for name in needed if name not in with_default and name not in options]
    if missing:
        raise DataError(f"'{spec}' needs {', '.join(missing)} besides prompt, completion and row; give it as an option")


def check_verifier(spec: str, options: Mapping[str, Any]) -> None:
    """Look, without running it, at a verifier named on the command line, with its options.

    A module that only the verifier's own process finds, where the user stands, is left to it.

    Raises:
        DataError: There is no such file or function, or it cannot be called so.
    """
    try:
        function_file(spec)
    except DataError:
        place, separator, _ = spec.rpartition(":")
        if separator and not place.endswith(".py"):
            return
        raise
    check_call(spec, options)
    check_options(spec, options)


def _written(spec: str) -> ast.arguments | None:
    """Return what a function takes as its file says, None where only running the file could tell."""
    name = BUILT_INS.get(spec, spec).rpartition(":")[2]
    nodes = list(_top_level(ast.parse(function_file(spec).read_bytes()).body))
    if any(isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == name for node in nodes):
        return None
    found = [node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == name]
    # Of several, under conditions, only running the file tells which one counts.
    return found[0].args if len(found) == 1 and not found[0].decorator_list else None


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _top_level(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Yield all that stands outside functions and classes, under `if` and `try` too."""
    for node in body:
        yield node
        if not isinstance(node, _DEFINITIONS):
            yield from _top_level(ast.iter_child_nodes(node))


def check_machine(spec: str, options: Mapping[str, Any]) -> None:
    """Look whether a built-in verifier can run on this machine: a lack should show before hours of a run, not after.

    Raises:
        DataError: It needs an extra that is not installed.
        SandboxError: It runs model-written code, and there is no isolation for that.
    """
    if spec in EXTRAS and importlib.util.find_spec(EXTRAS[spec][0]) is None:
        module, extra = EXTRAS[spec]
        raise DataError(f"verifier '{spec}' needs {module}: pip install 'posttrain[{extra}]'")
    if spec == "code" and options.get("uncontained") is not True:
        choose_method()


def _check_name(path: Path, name: str) -> None:
    """Look for a name in a file without running it, so that a slip shows before a run has gone on for hours."""
    try:
        nodes = list(ast.walk(ast.parse(path.read_bytes(), path.name)))
    except (SyntaxError, ValueError) as error:
        raise DataError(f"{path} is not Python: {error}") from error
    names = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    names |= {node.asname or node.name for node in nodes if isinstance(node, ast.alias)}
    names |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    if not names & {name, "*"}:
        near = difflib.get_close_matches(name, names, n=1)
        raise DataError(f"{path} has no function '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""))


def load_function(spec: str) -> Callable[..., Any]:
    """Import a function of a recipe into this process; meant for the user's own code, never for a model's.

    Raises:
        DataError: There is no such file, module or function, or importing it failed.
    """
    function_file(spec)
    try:
        return import_function(spec)
    except (ValueError, ImportError, AttributeError, SyntaxError) as error:
        raise DataError(f"'{spec}' cannot be imported: {error}") from error
