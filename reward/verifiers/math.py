"""Mathematical equality with a reference answer, by math-verify."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

try:
    import math_verify
    import sympy  # math-verify brings it
except ImportError as error:
    raise ImportError("the verifier math needs math-verify: pip install 'posttrain[math]'") from error

_RAISED = "⁻⁺⁰¹²³⁴⁵⁶⁷⁸⁹"
_PLAIN = str.maketrans(_RAISED, "-+0123456789")
# math-verify reads 1e-7 as 1, or as e - 7, 10² as 10, and 1.5 × 10^-3 outside of dollars as 10.
_SCIENTIFIC = re.compile(
    r"(?<![\w.^/_])(?P<digits>\d+(?:\.\d+)?)(?:[eE](?P<e>[-+]?\d{1,3})|\s?(?:×|·|\*|\\times|\\cdot)\s?10"
    rf"(?:(?:\^|\*\*)\{{?(?P<ten>[-+]?\d{{1,3}})\}}?|(?P<raised>[{_RAISED}]{{1,4}}))|(?P<power>[{_RAISED}]{{1,2}}))"
    r"(?![\w^!]|\.\d)"
)
_SUPERSCRIPT = re.compile(rf"(?<=[\w)\]}}])[{_RAISED}]+")
_PRECISION = 15
"""Digits to which math-verify evaluates what is not written as a decimal."""


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
        float_rounding: decimals that count where a number is not exact; 1/3 equals 0.333 with 3. Of numbers below 1 as
            many significant digits count, so that 1e-7 is not 2e-7; 0 equals no other number.

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
    more = _leading_zeros([*wanted, *given])
    equal = math_verify.verify(
        wanted, given, float_rounding + more, _PRECISION + more, timeout_seconds=None, raise_on_error=True
    )
    return float(equal), f"read as {str(given[0])[:100]}"


def _parse(text: str) -> list[Any]:
    text = _SCIENTIFIC.sub(_as_decimal, text.replace("−", "-"))
    text = _SUPERSCRIPT.sub(lambda found: f"^{{{found[0].translate(_PLAIN)}}}", text)
    return math_verify.parse(text, parsing_timeout=None, raise_on_error=False)


def _as_decimal(found: re.Match[str]) -> str:
    """Write a number without its exponent; as it was where it has no such form."""
    exponent = (found["e"] or found["ten"] or found["raised"] or found["power"]).translate(_PLAIN)
    if not re.fullmatch(r"[-+]?\d+", exponent):
        return found[0]
    value = Decimal(found["digits"])
    value = value ** int(exponent) if found["power"] else value.scaleb(int(exponent))
    return format(value, "f") if value.is_finite() else found[0]


def _leading_zeros(results: Sequence[Any]) -> int:
    """Count the zeros behind the point of the smallest number in results that are not 0."""
    return max([0, *(-size for result in results for size in _sizes(result))])


def _sizes(result: Any) -> Iterator[int]:
    """List the decimal exponents of the numbers of a result that are not 0 (4 of 1234, -7 of 1e-7)."""
    if getattr(result, "is_number", False):
        size = abs(result).evalf(_PRECISION)
        # sympy says by a precision of 1 that it found no digit: sqrt(2)**2 - 2.
        if size.is_Float and size.is_finite and size > 0 and size._prec > 1:
            yield math.ceil(float(sympy.log(size, 10)))
            return
    for part in getattr(result, "args", ()):
        yield from _sizes(part)
