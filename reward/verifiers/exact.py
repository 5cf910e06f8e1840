"""Exact match with a reference answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.core.likeness import reader_form


def verify(
    prompt: Sequence[Mapping[str, Any]],
    completion: str,
    row: Mapping[str, Any],
    column: str = "reference",
    ignore_case: bool = False,
) -> float:
    """Give 1 where the completion equals the reference, or one of several, up to white space and Unicode form.

    Raises:
        KeyError: the row has no such column.
        ValueError: there is nothing in it.
    """
    references = row[column] if isinstance(row[column], list) else [row[column]]
    if not references or None in references:
        raise ValueError(f"{column} is {row[column]!r}; expected text, or a list of texts")
    wanted = {_fold(str(reference), ignore_case) for reference in references}
    return float(_fold(completion, ignore_case) in wanted)


def _fold(text: str, ignore_case: bool) -> str:
    text = reader_form(text)
    return text.lower() if ignore_case else text
