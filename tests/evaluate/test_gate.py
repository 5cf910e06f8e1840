"""The gate's rules."""

import pytest

from posttrain.core.errors import DataError
from posttrain.evaluate.gate import gate


def rate(value, low, high, num_pairs=100):
    return {"win_rate": value, "low": low, "high": high, "num_pairs": num_pairs}


@pytest.mark.parametrize(
    ("rule", "measured", "promoted"),
    [
        ("lower_bound", rate(0.60, 0.51, 0.69), True),
        ("lower_bound", rate(0.60, 0.50, 0.70), False),
        ("not_worse", rate(0.50, 0.40, 0.60), True),
        ("not_worse", rate(0.49, 0.40, 0.60), False),
    ],
)
def test_rules(rule, measured, promoted):
    decision = gate(measured, 0.5, rule)
    assert decision.promoted is promoted
    assert decision.reason.startswith("Promoted: " if promoted else "Held: ")


def test_reason_names_the_numbers():
    assert gate(rate(0.6, 0.51, 0.69), 0.5).reason == (
        "Promoted: win rate 0.600 over the best so far, 95 % interval 0.510 to 0.690, 100 prompts; "
        "the lower bound must exceed 0.500."
    )


def test_no_evaluation_promotes_and_says_so():
    assert gate(None, 0.5).promoted
    assert "evaluates nothing" in gate(None, 0.5).reason


def test_numbers_that_are_none_are_refused():
    with pytest.raises(DataError, match="not in"):
        gate(rate(float("nan"), 0.1, 0.2), 0.5)
    with pytest.raises(DataError, match="no pairs"):
        gate(rate(0.5, 0.1, 0.9, num_pairs=0), 0.5)
    with pytest.raises(ValueError, match="lower_bound or not_worse"):
        gate(rate(0.5, 0.1, 0.9), 0.5, "always")
