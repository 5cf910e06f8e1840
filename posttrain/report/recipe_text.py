"""The recipe as a person wrote it, and what each of its fields means: the schema's words, the recipe's comments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from posttrain.core.files import read_text
from posttrain.recipe import Recipe
from posttrain.runs import Run


def recipe_text(found: Run) -> dict[str, Any]:
    """Return the recipe's file as `text` and the `overrides` of the command line; empty for a run older than both."""
    path = found.folder / "recipe.yaml"
    if not path.is_file():
        return {}
    return {"text": read_text(path), "overrides": list(found.record.get("overrides") or [])}


def recipe_sources(found: Run) -> dict[str, str]:
    """Return for every field that has either what it means and what the recipe's comment beside it says."""
    said = comments(recipe_text(found).get("text", ""))
    try:
        meant = dict(meanings(Recipe.model_validate(found.recipe)))
    except ValidationError:  # a run of another version: its fields may have meant something else
        meant = {}
    names = dict.fromkeys([*meant, *said])
    return {name: " – ".join(part for part in (meant.get(name), said.get(name)) if part) for name in names}


def meanings(section: BaseModel, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted name of every field with a line of its own in the schema, and that line."""
    for name, field in type(section).model_fields.items():
        value, dotted = getattr(section, name), f"{place}{name}"
        if field.description:
            yield dotted, " ".join(field.description.split())
        for key, item in _sections(value):
            yield from meanings(item, f"{dotted}{key}.")


def _sections(value: object) -> Iterator[tuple[str, BaseModel]]:
    if isinstance(value, BaseModel):
        yield "", value
    elif isinstance(value, tuple | dict):
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        yield from ((f".{place}", item) for place, item in entries if isinstance(item, BaseModel))


def comments(text: str) -> dict[str, str]:
    """Return the comment that ends the line of each value in a YAML text, by the value's dotted name.

    A comment behind a section's name stands under that name.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return {}
    lines = text.splitlines()
    return dict(_comments(root, "", lines)) if root is not None else {}


def _comments(node: yaml.Node, place: str, lines: list[str]) -> Iterator[tuple[str, str]]:
    for key, position, value in _children(node):
        dotted = f"{place}.{key}" if place else key
        block = isinstance(value, yaml.CollectionNode) and not value.flow_style
        mark = position if block else value.end_mark
        rest = lines[mark.line][mark.column :] if mark.line < len(lines) else ""
        if block and isinstance(node, yaml.SequenceNode):
            rest = ""  # the line of an entry is that of its first field, to which the comment belongs
        if (found := re.match(r"[^#]*?\s#\s*(.+)", rest)) and (block or re.match(r"[\s,}\]]*#", rest)):
            yield dotted, found.group(1).strip()
        if block:  # a comment behind a value in brackets is about all of it
            yield from _comments(value, dotted, lines)


def _children(node: yaml.Node) -> Iterator[tuple[str, Any, yaml.Node]]:
    """Yield key, where the key ends, and value of a mapping's entries; of a list's, with their places as keys."""
    if isinstance(node, yaml.MappingNode):
        yield from ((str(key.value), key.end_mark, value) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        yield from ((str(place), item.start_mark, item) for place, item in enumerate(node.value))
