"""How good is a reward model: does it agree with labels, by how clear they are, and is it length that it likes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import expit

from reward.errors import RewardError
from reward.ids import completion_text
from reward.preferences import STRENGTHS

Row = dict[str, Any]


def reward_model_report(
    pairs: Iterable[Mapping[str, Any]], num_bins: int = 10, length_tolerance: float = 0.1
) -> dict[str, Any]:
    """Compare scores with labels on preference pairs that the reward model was not trained on.

    Args:
        pairs: PREFERENCE rows with `chosen_score` and `rejected_score`, perhaps `strength`.
        num_bins: bins of the calibration, of equal width between confidence 0.5 and 1.
        length_tolerance: lengths that differ by at most this share of the longer one count as matched.

    Returns:
        `accuracy` (share of pairs with the chosen answer above; a tie counts one half) with its 95 % Wilson interval
        `accuracy_low`, `accuracy_high`; `num_pairs`, `ties`, `mean_margin`; `by_strength`;
        `length_only_accuracy` (what "the longer answer is better" scores on these pairs), `length_matched_accuracy`
        on `num_length_matched` pairs; `score_length_correlation` (Spearman, over all answers) and
        `margin_length_correlation` (the same for differences within a pair, so that prompts do not matter);
        `ece` and `calibration` of sigmoid(margin) as the probability that the chosen answer is better (Guo et al.
        2017, 1706.04599). A number that the pairs do not determine is None.

    Raises:
        RewardError: there are no pairs, or a score is missing or not finite.
    """
    rows = list(pairs)
    chosen, rejected = _scores(rows, "chosen_score"), _scores(rows, "rejected_score")
    chosen_length, rejected_length = _lengths(rows, "chosen"), _lengths(rows, "rejected")
    margins, gaps = chosen - rejected, chosen_length - rejected_length
    right = _right(margins)
    matched = np.abs(gaps) <= length_tolerance * np.maximum(chosen_length, rejected_length)
    low, high = _wilson(right)
    bins, ece = _calibration(margins, num_bins)
    return {
        "accuracy": float(right.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "num_pairs": len(rows),
        "ties": int((margins == 0).sum()),
        "mean_margin": float(margins.mean()),
        "by_strength": _by_strength(rows, right),
        "length_only_accuracy": float(_right(gaps).mean()),
        "length_matched_accuracy": float(right[matched].mean()) if matched.any() else None,
        "num_length_matched": int(matched.sum()),
        "score_length_correlation": _spearman(
            np.concatenate([chosen, rejected]), np.concatenate([chosen_length, rejected_length])
        ),
        "margin_length_correlation": _spearman(margins, gaps),
        "ece": ece,
        "calibration": bins,
    }


def _scores(rows: Sequence[Mapping[str, Any]], column: str) -> np.ndarray:
    if not rows:
        raise RewardError("no preference pairs to measure the reward model on; hold some out of its training.")
    for number, row in enumerate(rows, start=1):
        value = row.get(column)
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise RewardError(
                f"pair {number}: {column} is {value!r}, expected a finite number; drop unscored pairs first."
            )
    return np.array([row[column] for row in rows], dtype=np.float64)


def _lengths(rows: Sequence[Mapping[str, Any]], side: str) -> np.ndarray:
    """Give lengths in characters, which no tokenizer has a say in."""
    return np.array([len(completion_text(row[side])) for row in rows], dtype=np.float64)


def _right(differences: np.ndarray) -> np.ndarray:
    return np.where(differences > 0, 1.0, np.where(differences < 0, 0.0, 0.5))


def _wilson(right: np.ndarray) -> tuple[float, float]:
    # Ties are rare among float scores; half a success is rounded, since the test counts whole ones.
    interval = stats.binomtest(round(float(right.sum())), len(right)).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def _by_strength(rows: Sequence[Mapping[str, Any]], right: np.ndarray) -> dict[str, dict[str, float | int]]:
    found = {str(row["strength"]) for row in rows if row.get("strength") is not None}
    names = [name for name in STRENGTHS if name in found] + sorted(found - set(STRENGTHS))
    table: dict[str, dict[str, float | int]] = {}
    for name in names:
        mine = np.array([str(row.get("strength")) == name for row in rows])
        table[name] = {"accuracy": float(right[mine].mean()), "num_pairs": int(mine.sum())}
    return table


def _spearman(first: np.ndarray, second: np.ndarray) -> float | None:
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(stats.spearmanr(first, second).statistic)


def _calibration(margins: np.ndarray, num_bins: int) -> tuple[list[Row], float]:
    """Bin pairs by how sure the model is of whichever answer it prefers; give the bins and the expected error."""
    confidence = expit(np.abs(margins))
    right = _right(margins)
    edges = np.linspace(0.5, 1.0, num_bins + 1)
    places = np.clip(np.digitize(confidence, edges) - 1, 0, num_bins - 1)
    bins: list[Row] = []
    for place in range(num_bins):
        mine = places == place
        bins.append(
            {
                "low": float(edges[place]),
                "high": float(edges[place + 1]),
                "count": int(mine.sum()),
                "confidence": float(confidence[mine].mean()) if mine.any() else None,
                "accuracy": float(right[mine].mean()) if mine.any() else None,
            }
        )
    filled = [entry for entry in bins if entry["count"]]
    error = sum(entry["count"] * abs(entry["accuracy"] - entry["confidence"]) for entry in filled)
    return bins, error / len(margins)
