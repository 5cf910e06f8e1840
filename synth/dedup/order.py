"""Say which of several duplicates stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from synth.rows import Row

Key = Callable[[Mapping[str, Any]], Any]


def best_first(rows: Sequence[Row], order_by: Key | None) -> list[int]:
    """List positions from the row to be kept first to the one kept last: largest value first, then input order."""
    if order_by is None:
        return list(range(len(rows)))
    # reverse keeps equal values in input order.
    return sorted(range(len(rows)), key=lambda position: order_by(rows[position]), reverse=True)
