"""The kinds of training, and which rows each takes. Loads no heavy library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from posttrain.core.formats import check_rows

Kind = Literal["sft", "dpo", "reward_model", "distill"]
Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


def check_training_rows(kind: Kind, rows: Sequence[Any]) -> None:
    """Refuse rows that this kind of training cannot use.

    Rows of one file have one form: SFT takes `messages` or `prompt` and `completion`; a reward model takes pairs,
    rankings, or both.

    Raises:
        DataError: lists the first faults with their row numbers.
    """
    where = "training rows"
    if kind in ("sft", "distill"):
        check_rows(rows, "messages" if rows and rows[0].get("messages") is not None else "completion", where)
        return
    ranks = kind == "reward_model"
    rankings = [row for row in rows if ranks and row.get("completions") is not None]
    pairs = [row for row in rows if not ranks or row.get("completions") is None]
    if rankings:
        check_rows(rankings, "ranking", f"{where} with completions")
    if pairs or not rankings:
        check_rows(pairs, "preference", where)
