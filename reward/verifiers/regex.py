"""A regular expression that the answer has to match."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any


def verify(
    prompt: Sequence[Mapping[str, Any]],
    completion: str,
    row: Mapping[str, Any],
    pattern: str | None = None,
    column: str = "pattern",
) -> float:
    """Give 1 where `pattern` (or the row's own, in `column`) is found in the completion; anchor it to match the whole.

    Raises:
        KeyError: there is no pattern.
        re.error: the pattern is none.
    """
    return float(re.search(row[column] if pattern is None else pattern, completion) is not None)
