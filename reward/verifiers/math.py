"""Mathematical equality with a reference answer, by math-verify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

try:
    import math_verify
except ImportError as error:
    raise ImportError("the verifier math needs math-verify: pip install 'posttrain[math]'") from error


def verify(
    prompt: Sequence[Mapping[str, Any]], completion: str, row: Mapping[str, Any], column: str = "reference"
) -> float:
    """Give 1 where the last expression of the completion equals the reference (1/2 and 0.5 and \\frac12 are equal).

    The time limit is that of the child process: math-verify's own returns False when it strikes, which would be a
    score of 0 for an answer that nobody has judged.

    Raises:
        ValueError: the reference cannot be read as mathematics.
        KeyError: the row has no such column.
    """
    wanted = _parse(str(row[column]))
    if not wanted:
        raise ValueError(f"the reference {row[column]!r} cannot be read as mathematics")
    given = _parse(completion)
    if not given:
        return 0.0
    return float(math_verify.verify(wanted, given, timeout_seconds=None, raise_on_error=True))


def _parse(text: str) -> list[Any]:
    return math_verify.parse(text, parsing_timeout=None, raise_on_error=False)
