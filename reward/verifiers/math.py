"""Mathematical equality with a reference answer, by math-verify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

try:
    import math_verify
except ImportError as error:
    raise ImportError("the verifier math needs math-verify: pip install 'posttrain[math]'") from error


def verify(
    prompt: Sequence[Mapping[str, Any]],
    completion: str,
    row: Mapping[str, Any],
    column: str = "reference",
    float_rounding: int = 6,
) -> tuple[float, str]:
    """Give 1 where the completion's result equals the reference (1/2 and 0.5 and \\frac12 are equal).

    The time limit is that of the child process: math-verify's own returns False when it strikes, which would be a
    score of 0 for an answer that nobody has judged.

    Write references as LaTeX in dollars: a plain (1, 2) is read as 2, a plain {1,2} as nothing. All that an
    answer puts in `\\boxed` counts together, so two guesses are wrong; without any, its first stated result counts. A
    letter of multiple choice is for `exact`.

    Args:
        float_rounding: decimals that count where a number is not exact; 1/3 equals 0.333 with 3.

    Raises:
        ValueError: the reference cannot be read as mathematics.
        KeyError: the row has no such column.
    """
    wanted = _parse(str(row[column]))
    if not wanted:
        raise ValueError(f"the reference {row[column]!r} cannot be read as mathematics")
    given = _parse(completion)
    if not given:
        return 0.0, "no result that can be read as mathematics"
    equal = math_verify.verify(wanted, given, float_rounding, timeout_seconds=None, raise_on_error=True)
    return float(equal), f"read as {str(given[0])[:100]}"


def _parse(text: str) -> list[Any]:
    return math_verify.parse(text, parsing_timeout=None, raise_on_error=False)
