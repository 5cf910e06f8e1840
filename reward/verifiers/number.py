"""The last number of an answer, compared with a reference within a tolerance."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

# A comma counts only between groups of three digits, so that "1,234" is one number and "1,2" are two.
_NUMBER = re.compile(
    r"(?<![\w.])(?P<sign>[-+−])?(?P<whole>\d{1,3}(?:,\d{3})+|\d+)?(?P<part>\.\d+)?(?P<power>[eE][-+]?\d{1,3})?"
    r"(?:/(?P<below>\d+))?(?P<percent>\s?%)?"
)


def verify(
    prompt: Sequence[Mapping[str, Any]],
    completion: str,
    row: Mapping[str, Any],
    column: str = "reference",
    tolerance: float = 1e-6,
) -> float:
    """Give 1 where the last number of the completion equals the reference within `tolerance`, relative or absolute.

    Reads thousands separators, decimals, exponents, simple fractions and percent (50 % equals 0.5 and 50). An answer
    without a number, or with one beyond what a float holds, is wrong.

    Raises:
        ValueError: the reference is no number, or too large for a float.
        KeyError: the row has no such column.
    """
    wanted = last_number(str(row[column]))
    if wanted is None or not all(map(math.isfinite, wanted)):
        raise ValueError(f"the reference {row[column]!r} is no number that a float holds")
    given = last_number(completion)
    if given is None:
        return 0.0
    # Two numbers too large for a float are both infinite, and infinity is close to itself.
    given = tuple(filter(math.isfinite, given))
    return float(any(math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance) for a in given for b in wanted))


def last_number(text: str) -> tuple[float, ...] | None:
    """Return the value of the last number in a text: one, or two for a percentage (50 and 0.5); None without any."""
    found = [match for match in _NUMBER.finditer(text) if match["whole"] or match["part"]]
    if not found:
        return None
    match = found[-1]
    value = float((match["whole"] or "0").replace(",", "") + (match["part"] or "") + (match["power"] or ""))
    if match["sign"] in ("-", "−"):
        value = -value
    if match["below"] and float(match["below"]) != 0:
        value /= float(match["below"])
    return (value, value / 100) if match["percent"] else (value,)
