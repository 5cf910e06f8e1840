"""Drop completions that were cut at the token limit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from synth.filters.partition import Dropped, Kept, partition
from synth.rows import Row


def drop_truncated(rows: Iterable[Mapping[str, Any]]) -> tuple[Kept, Dropped]:
    """Keep completions that ended by themselves (`finish_reason` "stop").

    Reasons: `truncated` for "length"; `finish_reason_unknown`, with the value, for everything else, an absent field
    included: whether such a completion is whole cannot be told.
    """
    return partition(rows, _reason)


def _reason(row: Row) -> str | None:
    finish_reason = row.get("finish_reason")
    if finish_reason == "stop":
        return None
    return "truncated" if finish_reason == "length" else f"finish_reason_unknown: {finish_reason!r}"
