"""A recipe as a file: strict YAML, absolute paths, `key=value` overrides. Nothing is validated here but the form."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.core.errors import DataError, PosttrainError
from posttrain.core.files import read_text
from posttrain.recipe_yaml import read_yaml

PATH_KEYS = ("path", "local_copy")
READER_KINDS = ("judge", "llm", "rubric")
"""Kinds of judges that read a question: their `template` is a file, whatever its name ends in; a generator's may be the
name of a built-in one."""
FUNCTION_KEYS = ("function", "edit_function", "check")


class RecipeError(PosttrainError, ValueError):
    """A recipe that cannot be run; the message lists every fault found."""


def raise_faults(where: str, faults: Sequence[str]) -> None:
    """Raise one error that lists the faults, each once; do nothing where there are none."""
    unique = list(dict.fromkeys(faults))
    if unique:
        number = f"{len(unique)} fault{'s' if len(unique) > 1 else ''}"
        # A fault may hold a list itself, which stands further in.
        indented = [fault.replace("\n", "\n  ") for fault in unique]
        raise RecipeError(f"{where} has {number}:\n" + "\n".join(f"  - {fault}" for fault in indented))


def read_data(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return a recipe's data with absolute paths and the overrides in place, not yet validated."""
    path = Path(path)
    data = _anchor_paths(_read_yaml(path), path.parent.resolve())
    for override in overrides:
        _apply_override(data, override)
    return data


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.exists():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1)
        hint = f"did you mean {path.parent / near[0]}?" if near else "give the path of a recipe (.yaml)"
        raise RecipeError(f"recipe {path} does not exist; {hint}")
    try:
        data = read_yaml(read_text(path))
    except DataError as error:
        raise RecipeError(f"recipe {error}") from error
    except ValueError as error:
        raise RecipeError(f"recipe {path} is {error}") from error
    if not isinstance(data, dict):
        raise RecipeError(
            f"recipe {path} holds {type(data).__name__}, expected a mapping of sections; see docs/recipes.md"
        )
    return data


def _anchor_paths(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        kind = value.get("kind")
        return {key: _anchored(key, item, folder, kind) for key, item in value.items()}
    if isinstance(value, list):
        return [_anchor_paths(item, folder) for item in value]
    return value


def _anchored(key: str, value: Any, folder: Path, kind: Any = None) -> Any:
    """Give a value of a section of that kind with its paths below the folder."""
    if not isinstance(value, str):
        return _anchor_paths(value, folder)
    if key in PATH_KEYS or (key == "template" and (kind in READER_KINDS or value.endswith(".txt"))):
        return str(folder / Path(value).expanduser())
    if key in FUNCTION_KEYS and ".py:" in value:
        return str(folder / Path(value).expanduser())
    return value


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise RecipeError(f"override '{override}' is not key=value, for example train.dpo.beta=0.05")
    *parents, last = key.strip().split(".")
    value = read_value(override, text)
    target: Any = data
    for parent in parents:
        target = _child(target, parent, override)
    kind = target.get("kind") if isinstance(target, dict) else None
    value = _anchored(last, value, Path.cwd(), kind)
    if isinstance(target, list):
        target[_index(target, last, override)] = value
    else:
        target[last] = value


def read_value(item: str, text: str) -> Any:
    """Read the value of a `key=value` item as YAML.

    Raises:
        RecipeError: It is not YAML.
    """
    try:
        return read_yaml(text)
    except ValueError as error:
        raise RecipeError(f"'{item[:60]}': the value is {error}") from error


def _child(target: Any, key: str, override: str) -> Any:
    if isinstance(target, list):
        return target[_index(target, key, override)]
    child = target.setdefault(key, {})
    if child is None:
        child = target[key] = {}
    if not isinstance(child, (dict, list)):
        raise RecipeError(f"override '{override}': '{key}' is the value {child!r}, not a section")
    return child


def _index(items: list[Any], key: str, override: str) -> int:
    if not key.isdecimal() or int(key) >= len(items):
        raise RecipeError(
            f"override '{override}': '{key}' is no position in a list of {len(items)} (positions start at 0)"
        )
    return int(key)
