"""Split rows into kept and dropped by a reason, and run several filters in a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from synth.errors import MalformedRow, SynthError
from synth.rows import Row, copies

Kept = list[Row]
Dropped = list[Row]
Filter = Callable[[list[Row]], tuple[Kept, Dropped]]


def partition(rows: Iterable[Mapping[str, Any]], reason_of: Callable[[Row], str | None]) -> tuple[Kept, Dropped]:
    """Keep the rows without a reason to drop them.

    Args:
        reason_of: gives None for a row to keep, else the reason. A row that it cannot read (`MalformedRow`) is dropped.

    Returns:
        kept and dropped rows, both in input order; dropped rows carry `drop_reason`. The input is not modified.
    """
    kept: Kept = []
    dropped: Dropped = []
    for row in copies(rows):
        try:
            reason = reason_of(row)
        except MalformedRow as error:
            reason = f"malformed: {error}"
        if reason is None:
            kept.append(row)
        else:
            dropped.append({**row, "drop_reason": reason})
    return kept, dropped


def clean(
    rows: Iterable[Mapping[str, Any]], filters: Mapping[str, Filter], max_drop_rate: float | None = None
) -> tuple[Kept, Dropped, dict[str, Any]]:
    """Send rows through filters, each seeing what the one before kept, and count every drop.

    Args:
        filters: by name, in the order in which they run.
        max_drop_rate: largest share of the rows that may be dropped, in [0, 1]; None allows all.

    Returns:
        kept; dropped (filter by filter, each in input order); and the counts: `num_rows`, `num_kept`, `num_dropped`,
        `reasons` and, under `filters`, the same for each filter. They always add up.

    Raises:
        SynthError: more rows than `max_drop_rate` were dropped (names the three most frequent reasons), or a filter
            lost or doubled rows.
    """
    kept = copies(rows)
    dropped: Dropped = []
    counts: dict[str, Any] = {"num_rows": len(kept), "filters": {}}
    for name, run in filters.items():
        num_rows = len(kept)
        kept, out = run(kept)
        if len(kept) + len(out) != num_rows:
            raise SynthError(
                f"filter '{name}' got {num_rows} rows and returned {len(kept)} kept and {len(out)} dropped; "
                "a filter must return every row once"
            )
        counts["filters"][name] = _count(num_rows, out)
        dropped += out
    counts = {**_count(counts["num_rows"], dropped), "filters": counts["filters"]}
    if max_drop_rate is not None:
        check_drop_rate(counts["num_rows"], dropped, max_drop_rate)
    return kept, dropped, counts


def check_drop_rate(num_rows: int, dropped: Iterable[Mapping[str, Any]], max_drop_rate: float) -> None:
    """Refuse to go on when too large a share of the rows was dropped.

    Raises:
        SynthError: names the share and the three most frequent reasons.
    """
    reasons = Counter(kind_of(row["drop_reason"]) for row in dropped)
    num_dropped = reasons.total()
    if num_dropped <= max_drop_rate * num_rows:
        return
    top = ", ".join(f"{reason} {count}" for reason, count in ranked(reasons)[:3])
    raise SynthError(
        f"{num_dropped} of {num_rows} rows were dropped ({num_dropped / num_rows:.1%}), more than "
        f"max_drop_rate {max_drop_rate:g} allows; most often: {top}. Look at dropped rows of that reason; "
        "then mend the prompts or settings, or raise max_drop_rate"
    )


def kind_of(reason: str) -> str:
    """Give the kind of a drop reason: what stands before the colon, where details follow it."""
    return reason.split(":", 1)[0]


def ranked(reasons: Mapping[str, int]) -> list[tuple[str, int]]:
    """Sort counts, most frequent first, equal counts by name."""
    return sorted(reasons.items(), key=lambda item: (-item[1], item[0]))


def _count(num_rows: int, dropped: Dropped) -> dict[str, Any]:
    reasons = Counter(kind_of(row["drop_reason"]) for row in dropped)
    return {
        "num_rows": num_rows,
        "num_kept": num_rows - len(dropped),
        "num_dropped": len(dropped),
        "reasons": dict(ranked(reasons)),
    }
