"""Sections on what was asked and with what: the recipe, versions, seeds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from posttrain.report.blocks import Block, Cell, Section, Table, Text, Verbatim, not_yet, plain_text
from posttrain.report.judged import resolved_recipe

Run = Mapping[str, Any]


def recipe_section(run: Run) -> Section:
    """List every number of the resolved recipe by its dotted name."""
    recipe = resolved_recipe(run)
    if not recipe:
        return Section("recipe", "Recipe", [not_yet("Resolved recipe")])
    sources = run.get("recipe_sources") or {}
    rows = [
        [Cell(name, "code"), Cell(_shown(value), "code"), Cell(str(sources.get(name, "")), "prose")]
        for name, value in flatten(recipe)
    ]
    columns = ["Field", "Value", "Meaning and source"]
    text = run.get("recipe_text") or {}
    blocks: list[Block] = [Text(sentence) for sentence in (overridden(text),) if sentence]
    if text.get("text"):
        blocks.append(Verbatim("The recipe as it was written, with its comments.", plain_text(text["text"])))
    else:
        blocks.append(not_yet("The recipe as it was written"))
    blocks.append(Table(f"{len(rows)} values, defaults included.", columns, rows, folded=True))
    return Section("recipe", "Recipe", blocks)


def overridden(text: Mapping[str, Any]) -> str | None:
    """Say in a sentence what the command line changed of a recipe; None where it changed nothing."""
    changed = text.get("overrides") or []
    return f"Changed on the command line: {', '.join(map(str, changed))}." if changed else None


def versions_section(run: Run) -> Section:
    """List the versions that ran and the seeds."""
    versions = run.get("versions") or {}
    seeds = dict(run.get("seeds") or {})
    seeds |= {name: value for name, value in flatten(resolved_recipe(run)) if name.rsplit(".", 1)[-1] == "seed"}
    seeds = {name: seed for name, seed in seeds.items() if seed is not None}  # the others are derived from the recipe's
    version_rows = [[Cell(str(name), "code"), Cell(_shown(value), "code")] for name, value in flatten(versions)]
    seed_rows = [[Cell(str(name), "code"), Cell(_shown(value), "code")] for name, value in seeds.items()]
    given = "Seeds that were given; every stage derives its own from the recipe's."
    return Section(
        "versions",
        "Versions and seeds",
        [
            Table("Versions.", ["What", "Version"], version_rows) if version_rows else not_yet("Versions"),
            Table(given, ["Field", "Seed"], seed_rows) if seed_rows else not_yet("Seeds"),
        ],
    )


def flatten(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Walk a nested mapping; give each leaf with its dotted name (list entries by number)."""
    entries: list[tuple[object, object]] = []
    if isinstance(value, Mapping):
        entries = list(value.items())
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        entries = list(enumerate(value))
    if not entries:
        yield name, value
        return
    for key, item in entries:
        yield from flatten(item, f"{name}.{key}" if name else str(key))


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
