"""What pydantic says of a recipe, told for a person: the dotted place, the value, and the nearest name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from posttrain import config as sections
from posttrain.config import Section


def describe(error: Any, recipe: type[Section], data: Any) -> str:
    """Return one line for a fault that pydantic found in the data of a recipe."""
    where, parent, last = _locate(error["loc"], data)
    kind = error["type"]
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(last), _fields_like(parent, where, recipe), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else "; see docs/recipes.md for the fields of this section"
        return f"{where}: unknown key{hint}"
    if kind == "missing":
        return f"{where}: missing, and there is no default"
    if kind == "union_tag_not_found":
        return f"{where}.kind: missing; expected one of the kinds in docs/recipes.md"
    given = error.get("input")
    shown = f" (got {given!r})" if isinstance(given, (str, int, float, bool, type(None))) else ""
    message = error["msg"].removeprefix("Value error, ")
    return f"{where}: {message}{shown}" if where else f"{message}{shown}"


def _locate(loc: Sequence[Any], data: Any) -> tuple[str, Any, Any]:
    """Follow pydantic's location through the data; union tags, which are no keys of the file, are left out."""
    parts: list[str] = []
    parent, current = data, data
    for position, item in enumerate(loc):
        inside = (isinstance(current, dict) and item in current) or (
            isinstance(current, (list, tuple)) and isinstance(item, int) and item < len(current)
        )
        if not inside and position < len(loc) - 1:
            continue
        if not inside and isinstance(current, dict) and current.get("kind") == item:
            continue
        parent = current
        current = current[item] if inside else None
        parts.append(str(item))
    return ".".join(parts), parent, (loc[-1] if loc else "")


def _fields_like(parent: Any, where: str, recipe: type[Section]) -> list[str]:
    """Return the fields that a section at this place of the recipe may have."""
    kind = parent.get("kind") if isinstance(parent, dict) else None
    names = [part for part in where.split(".")[:-1] if not part.isdigit()]
    classes = _sections_of_field(recipe).get(names[-1], []) if names else [recipe]
    of_kind = [c for c in classes if kind is None or _kind_of(c) in (None, kind)]
    return list(dict.fromkeys(field for section in of_kind or classes for field in section.model_fields))


def _kind_of(section: type[Section]) -> Any:
    field = section.model_fields.get("kind")
    return None if field is None else field.default


def _sections_of_field(recipe: type[Section]) -> dict[str, list[type[Section]]]:
    """Return, for every field name that holds sections, which classes may stand there."""
    found: dict[str, list[type[Section]]] = {}
    classes = [recipe] + [c for c in vars(sections).values() if isinstance(c, type) and issubclass(c, Section)]
    for section in classes:
        for name, field in section.model_fields.items():
            found.setdefault(name, []).extend(_sections_in(field.annotation))
    return found


def _sections_in(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections_in(argument)
