"""Ids of completion rows: rows are joined by (prompt_id, sample_index), never by position."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from posttrain.core.errors import DataError
from posttrain.core.formats import normalize_prompt, prompt_id, refuse_half_pairs
from posttrain.core.reasoning import without_thought
from posttrain.core.tools import plain_tools

Row = dict[str, Any]

_DUPLICATE = "duplicate: this prompt_id and sample_index came before"


def completion_text(completion: Any) -> str:
    """Return the text of a completion: its last assistant message (a string is returned as it is).

    Raises:
        DataError: `completion` is neither a string nor a list that ends in a message with text.
    """
    if isinstance(completion, str):
        return completion
    if isinstance(completion, Sequence) and completion and isinstance(completion[-1], Mapping):
        content = completion[-1].get("content")
        if isinstance(content, str):
            return content
    raise DataError(f'completion: expected [{{"role": "assistant", "content": "…"}}], got {str(completion)[:80]!r}')


def answer_text(completion: Any) -> str:
    """Return what a completion says after its thoughts: what judges and verifiers read.

    Empty where it breaks off in a thought.

    Raises:
        DataError: as `completion_text`.
    """
    return without_thought(completion_text(completion))


def normalized_text(text: str) -> str:
    """Fold what a reader does not see: Unicode forms and white space. Case stays, since it can be the task."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip()


def with_ids(rows: Iterable[Mapping[str, Any]]) -> tuple[list[Row], list[Row]]:
    """Give every row a `prompt_id` and a `sample_index`, and set aside rows that repeat an id.

    A missing `prompt_id` is the content hash of the prompt; a missing `sample_index` counts the rows of that prompt.
    Samples of two models may share an index: `model` is part of the identity.

    Returns:
        The rows in input order, and the rows that cannot be used, with `drop_reason` and `position`, counted
        from 0.
    """
    kept: list[Row] = []
    dropped: list[Row] = []
    seen: set[tuple[str, int, str]] = set()
    counts: dict[str, int] = {}
    for position, source in enumerate(rows):
        row = dict(source)
        try:
            identity = _fill_ids(row, counts)
        except DataError as error:
            dropped.append({**row, "position": position, "drop_reason": str(error)})
            continue
        if identity in seen:
            dropped.append({**row, "position": position, "drop_reason": _DUPLICATE})
            continue
        seen.add(identity)
        kept.append(row)
    return kept, dropped


def _fill_ids(row: Row, counts: dict[str, int]) -> tuple[str, int, str]:
    if "prompt" not in row or "completion" not in row:
        missing = ", ".join(name for name in ("prompt", "completion") if name not in row)
        raise DataError(f"missing column: {missing}")
    messages = normalize_prompt(row["prompt"])
    refuse_half_pairs(completion_text(row["completion"]), "completion")
    if not isinstance(row.get("prompt_id"), str):
        row["prompt_id"] = prompt_id(messages, row.get("tools"))
    refuse_half_pairs(row["prompt_id"], "prompt_id")
    count = counts.get(row["prompt_id"], 0)
    counts[row["prompt_id"]] = count + 1
    if not isinstance(row.get("sample_index"), int):
        row["sample_index"] = count
    return row["prompt_id"], row["sample_index"], str(row.get("model"))


def group_by_prompt(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Group rows by `prompt_id`, in the order in which prompts first appear.

    Raises:
        DataError: one `prompt_id` stands for two different prompts.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        group = groups.setdefault(row["prompt_id"], [])
        if group and _question(group[0]) != _question(row):
            raise DataError(
                f"prompt_id {row['prompt_id']!r} stands for two different prompts; answers to different prompts "
                "cannot be compared. Give each prompt its own id, or leave the ids out."
            )
        group.append(row)
    return groups


def _question(row: Row) -> tuple[list[Row], list[Row] | None]:
    return normalize_prompt(row["prompt"]), plain_tools(row.get("tools"))
