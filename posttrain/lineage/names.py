"""What a person types for a row: an id, its beginning, and perhaps a sample's index."""

from __future__ import annotations

from difflib import SequenceMatcher

from posttrain.core.errors import DataError
from posttrain.lineage.graph import Graph

MIN_PREFIX = 6
MOST_LISTED = 20
MOST_NEAR = 5


def find_row(graph: Graph, row_id: str) -> tuple[str, int | None]:
    """Return the prompt id and sample index (None: all samples) that are meant by what was typed.

    A whole id comes first, since a prompt's own id may hold a colon; then `prompt_id:sample_index`; then the beginning
    of an id, of six characters or more, again with or without an index.

    Raises:
        DataError: No row has this id (those nearest to it are listed), or several ids begin with it (they are listed).
    """
    name, _, number = row_id.rpartition(":")
    ways: list[tuple[str, int | None]] = [(row_id, None)]
    if name and number.isdecimal():
        ways.append((name, int(number)))
    for prompt_id, index in ways:
        if _is_there(graph, prompt_id):
            return prompt_id, index
    for prefix, index in ways:
        found = _beginning_with(graph, prefix) if len(prefix) >= MIN_PREFIX else []
        if len(found) == 1:
            return found[0], index
        if found:
            more = f" and more (the first {MOST_LISTED} are shown)" if len(found) > MOST_LISTED else ""
            listed = ", ".join(found[:MOST_LISTED])
            raise DataError(f"several rows begin with '{prefix}': {listed}{more}; type more of the id")
    near = _nearest(graph, ways[-1][0])
    hint = f"nearest: {', '.join(near)}. " if near else ""
    raise DataError(
        f"run {graph.run.name} has no row '{row_id}'; {hint}Give a prompt_id, at least {MIN_PREFIX} characters of its "
        "beginning, or prompt_id:sample_index, as they stand in prompts.jsonl or completions.jsonl of a stage"
    )


def _is_there(graph: Graph, prompt_id: str) -> bool:
    return any(index.has(prompt_id) for files in graph.indexes.values() for index in files.values())


def _beginning_with(graph: Graph, prefix: str) -> list[str]:
    found: set[str] = set()
    for files in graph.indexes.values():
        for index in files.values():
            found.update(index.ids_with_prefix(prefix, MOST_LISTED + 1))
    return sorted(found)


def _nearest(graph: Graph, prompt_id: str) -> list[str]:
    """Return ids that share the beginning or the ending; a slip of the pen anywhere leaves one of the two."""
    ending = prompt_id[len(prompt_id) // 2 :]
    found: set[str] = set()
    for files in graph.indexes.values():
        index = files.get("prompts.jsonl")
        if index is not None:
            found.update(index.ids_near(prompt_id, MOST_NEAR))
            found.update(index.ids_ending_with(ending, MOST_NEAR))

    def likeness(other: str) -> float:
        return SequenceMatcher(None, prompt_id, other).ratio()

    return sorted((item for item in found if likeness(item) >= 0.5), key=lambda item: (-likeness(item), item))[
        :MOST_NEAR
    ]
