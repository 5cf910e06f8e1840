"""Verifiers of numbers: what is equal whatever its size and form, and what is not."""

from __future__ import annotations

import pytest

from reward.verifiers import number

SAME = (
    ("1e-7", "0.0000001"), ("so 1.5 × 10^-3", "0.0015"), ("1.5×10⁻⁷", "1.5e-7"), ("2.7 \\times 10^{-9}", "2.7e-9"),
    ("10²", "100"), ("10^2", "100"), ("−3", "-3"), ("1½", "1.5"), ("50%", "0.5"), ("50 %", "50"), ("1,234", "1234"),
    ("-0", "0"), ("0.33333333", "1/3"),
)  # fmt: skip
OTHER = (
    ("1e-7", "2e-7"), ("0.00000001", "0.00000002"), ("1.5 × 10^-3", "2.7 × 10^-3"), ("1e-1000", "1e-100"),
    ("1e-9", "0"),
    ("1e-400", "0"), ("10²", "102"), ("10²", "10"), ("0.5%", "50%"), ("5/0", "5"), ("-3", "3"), ("1.5", "15"),
)  # fmt: skip
MATH_SAME = (
    ("1e-7", "$10^{-7}$"), ("\\boxed{1e-7}", "1e-7"), ("1.5 × 10^-3", "$0.0015$"), ("10²", "$100$"), ("−3", "$-3$"),
    ("$3\\times 10^8$", "3e8"), ("$2^3 \\times 10^2$", "$800$"), ("$\\frac{1}{2} \\times 10^2$", "50"),
    ("50%", "$0.5$"),
    ("$\\{10^{-7}, 1\\}$", "$\\{1, 1e-7\\}$"), ("0.333333", "$1/3$"), ("$x²+1$", "$x^2+1$"), ("$\\sqrt{2}^2-2$", "$0$"),
)  # fmt: skip
MATH_OTHER = (
    ("1e-7", "2e-7"), ("1e-7", "1"), ("$10^{-20}$", "$2\\cdot10^{-20}$"), ("0.00000000001", "0"), ("10²", "102"),
    ("10²", "10"), ("1.5 × 10^-3", "$10$"), ("$\\{10^{-9}\\}$", "$\\{2\\cdot 10^{-9}\\}$"),
    ("$10^{-400}$", "$10^{-401}$"),
    ("$x = 0.00000001$", "$x = 0.00000002$"), ("0.0000001 x", "$0.0000002x$"), ("$(1, 1e-7)$", "$(1, 0.0000002)$"),
)  # fmt: skip


def faults(score, same, other):
    wrong = [(*pair, "should be equal") for pair in same if not score(*pair)]
    return wrong + [(*pair, "should differ") for pair in other if score(*pair)]


def test_numbers_are_compared_by_their_ratio():
    """An absolute tolerance of 1e-6 made 1e-7 equal to 2e-7 and to 0; 1.5 × 10^-3 was read as -3."""
    assert faults(lambda answer, wanted: number.verify([], answer, {"reference": wanted}), SAME, OTHER) == []
    for wanted in ("1e-400", "1e999", "1/0"):
        with pytest.raises(ValueError, match="no number that a float holds"):
            number.verify([], "1", {"reference": wanted})


def test_mathematics_of_small_numbers():
    """Rounding to 6 decimals made 1e-7 equal to 2e-7; math-verify reads 1e-7 as 1 and 10² as 10."""
    pytest.importorskip("math_verify")
    from reward.verifiers import math

    assert faults(lambda answer, wanted: math.verify([], answer, {"reference": wanted})[0], MATH_SAME, MATH_OTHER) == []
    assert math.verify([], "0.0333", {"reference": "$1/30$"}, float_rounding=3)[0] == 1.0


def test_stars_around_a_number_are_markdown():
    """A model's usual way to show its result; the stars in front of a number raise nothing to a power."""
    answers = [
        "**42**",
        "The answer is **42**.",
        "**Total**: **42**",
        "**41** and **42**",
        "**42.**",
        "= **+42**",
        "*42*",
    ]
    assert [a for a in answers if number.verify([], a, {"reference": "42"}) != 1.0] == []
    others = {"**1,000**": "1000", "**-3.5**": "-3.5", "**.5**": "0.5", "**½**": "0.5", "2**3": "8", "**50 %**": "50"}
    assert [a for a, wanted in others.items() if number.verify([], a, {"reference": wanted}) != 1.0] == []
