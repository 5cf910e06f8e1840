"""The gate: is a round good enough to become the model that the next round starts from?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from posttrain.core.errors import DataError

Rule = Literal["lower_bound", "not_worse"]


@dataclass(frozen=True)
class Decision:
    """Whether a round is promoted, and a sentence that says why, for the report."""

    promoted: bool
    reason: str


def caution(judges: str) -> str:
    """Say what the word of a judge is worth that the policy was trained against (2210.10760)."""
    return (
        f"CAUTION: the policy was trained against {judges}. Such a judge's win rates rise even where the answers get "
        "worse; trust them only beside another judge."
    )


def gate(
    win_rate: dict[str, Any] | None, min_win_rate: float, rule: Rule = "lower_bound", trained_against: bool = False
) -> Decision:
    """Decide whether a round replaces the best model so far.

    Rules, on the round's win rate over the current best:

    - ``lower_bound``: the lower end of the 95 % interval exceeds ``min_win_rate``; with 0.5, the round is shown to be
      better.
    - ``not_worse``: the win rate itself is at least ``min_win_rate``; with 0.5, a round that is as good passes, and so
      does one that is a little worse and lucky.

    Args:
        win_rate: as ``win_rate.win_rate`` gives it; None where the recipe compares nothing, and the round is promoted.
        min_win_rate: in [0, 1].
        trained_against: whether the judge is the reward model that the policy was trained against; the reason says so.

    Raises:
        DataError: a win rate that is not a number in [0, 1], or one over no pairs.
        ValueError: an unknown rule.
    """
    if win_rate is None:
        return Decision(True, "Promoted without a comparison: the recipe evaluates nothing.")
    rate, low, high = (win_rate[key] for key in ("win_rate", "low", "high"))
    if any(value is None or not math.isfinite(value) or not 0.0 <= value <= 1.0 for value in (rate, low, high)):
        raise DataError(f"gate: win rate {rate!r} with interval [{low!r}, {high!r}] is not in [0, 1]; evaluate again")
    if not win_rate["num_pairs"]:
        raise DataError("gate: the win rate stands on no pairs; look at the evaluation's verdicts")
    measured = (
        f"win rate {rate:.3f} over the best so far, 95 % interval {low:.3f} to {high:.3f}, "
        f"{win_rate['num_pairs']} prompts"
    )
    if rule == "lower_bound":
        promoted, test = low > min_win_rate, f"the lower bound must exceed {min_win_rate:.3f}"
    elif rule == "not_worse":
        promoted, test = rate >= min_win_rate, f"the win rate must reach {min_win_rate:.3f}"
    else:
        raise ValueError(f"rule is {rule!r}; expected lower_bound or not_worse")
    reason = f"{'Promoted' if promoted else 'Held'}: {measured}; {test}."
    return Decision(promoted, f"{reason} {caution('this judge')}" if trained_against else reason)
