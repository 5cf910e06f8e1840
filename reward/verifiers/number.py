"""The last number of an answer, compared with a reference within a relative tolerance."""

from __future__ import annotations

import math
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.core.likeness import reader_form

_RAISED = "⁻⁺⁰¹²³⁴⁵⁶⁷⁸⁹"
_PLAIN = str.maketrans(_RAISED, "-+0123456789")
_POWER = r"(?:(?:\^|\*\*)[{{(]?(?P<{0}>[-+]?\d{{1,4}})[)}}]?|(?P<{0}_raised>[" + _RAISED + "]+))"
# A comma counts only between groups of three digits, so that "1,234" is one number and "1,2" are two.
_NUMBER = re.compile(
    r"(?<![\w.])(?=[-+]?\.?[\d¼-¾⅐-⅞])"  # else the stars of "**42**" raise nothing to a power
    r"(?P<sign>[-+])?(?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?P<part>\.\d+)?(?P<vulgar>[¼-¾⅐-⅞])?"
    r"(?P<power>[eE][-+]?\d+)?"
    + "(?:"
    + _POWER.format("raised")
    + r"|\s?(?:×|·|\*|x|\\times|\\cdot)\s?10"
    + _POWER.format("ten")
    + r")?(?:/(?P<below>\d+))?(?P<percent>\s?\\?%)?"
)


def verify(
    prompt: Sequence[Mapping[str, Any]],
    completion: str,
    row: Mapping[str, Any],
    column: str = "reference",
    tolerance: float = 1e-6,
) -> float:
    """Give 1 where the last number of the completion equals the reference within `tolerance`, a share of the larger.

    No absolute tolerance is added, so that 1e-7 is not 2e-7; 0 equals 0 alone.

    Reads thousands separators, decimals, exponents (1.5e-3, 1.5 × 10^-3, 10²), simple fractions and percent (50 %
    equals 0.5 and 50). An answer without a number, or with one beyond what a float holds, is wrong.

    Raises:
        ValueError: the reference is no number, or too large or too small for a float.
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
    if len(given) == len(wanted) == 2:  # 0.5 % is not 50 %
        given, wanted = given[:1], wanted[:1]
    return float(any(math.isclose(a, b, rel_tol=tolerance) for a in given for b in wanted))


def last_number(text: str) -> tuple[float, ...] | None:
    """Return the value of the last number in a text: one, or two for a percentage (50 and 0.5); None without any.

    A number too large for a float is infinite; one too small, and one divided by 0, is NaN.
    """
    found = [
        match for match in _NUMBER.finditer(reader_form(text)) if match["whole"] or match["part"] or match["vulgar"]
    ]
    if not found:
        return None
    value = _value(found[-1])
    return (value, value / 100) if found[-1]["percent"] else (value,)


def _value(match: re.Match[str]) -> float:
    digits = (match["whole"] or "0").replace(",", "") + (match["part"] or "")
    value = float(digits + (match["power"] or "")) + (unicodedata.numeric(match["vulgar"]) if match["vulgar"] else 0.0)
    is_zero = value == 0 and not any(unicodedata.decimal(digit, 0) for digit in digits)
    try:
        if exponent := _exponent(match, "ten"):
            value = float(f"{value!r}e{exponent}") if "e" not in repr(value) else value * 10.0**exponent
        elif exponent := _exponent(match, "raised"):
            value = value**exponent
    except (OverflowError, ZeroDivisionError):
        return math.inf
    if match["below"]:
        value = value / float(match["below"]) if float(match["below"]) else math.nan
    if abs(value) < sys.float_info.min and not is_zero:
        return math.nan
    return -value if match["sign"] == "-" else value


def _exponent(match: re.Match[str], name: str) -> int:
    raised = match[f"{name}_raised"]
    text = match[name] or (raised and raised.translate(_PLAIN))
    return int(text) if text and re.fullmatch(r"[-+]?\d+", text) else 0
