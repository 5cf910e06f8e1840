"""An average of policies, or one of them alone? Whatever wins more over the base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from posttrain.core.errors import DataError


@dataclass(frozen=True)
class Choice:
    """Which model a round goes on with.

    Attributes:
        taken: `average`, or `single` for the best of the averaged models.
        best_single: position of the best single model, oldest first.
        members: positions of the models in the average.
        rule: by which the average was made.
        win_rate_average: over the base.
        win_rates_single: over the base, oldest first.
        reason: a sentence for the report.
    """

    taken: Literal["average", "single"]
    best_single: int
    members: list[int]
    rule: str
    win_rate_average: float
    win_rates_single: list[float]
    reason: str


def choose(singles: Sequence[float | None], average: float | None, rule: str, members: Sequence[int]) -> Choice:
    """Compare win rates over the base on the same prompts; an average that is as good as the best single is taken.

    Of singles that are equally good the newest, the last, counts as the best.

    Raises:
        DataError: a win rate is missing, because no verdict was readable.
    """
    rates = [rate for rate in singles if rate is not None]
    if average is None or len(rates) < len(singles) or not rates:
        raise DataError(f"averages cannot be compared: win rates over the base are {list(singles)} and {average}")
    best = max(range(len(rates)), key=lambda position: (rates[position], position))
    taken: Literal["average", "single"] = "average" if average >= rates[best] else "single"
    names = ", ".join(str(member + 1) for member in sorted(members))
    reason = (
        f"{'Average' if taken == 'average' else 'Single policy'} taken: the {rule} average of policies {names} of "
        f"{len(rates)} (oldest first) has win rate {average:.3f} over the base, the best single one, policy "
        f"{best + 1}, {rates[best]:.3f}."
    )
    return Choice(taken, best, list(members), rule, average, rates, reason)
