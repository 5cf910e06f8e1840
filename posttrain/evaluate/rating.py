"""One rating for all models of a run: Bradley-Terry, anchored at the base."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from scipy.special import expit
from scipy.stats import t as student_t

from posttrain.core.errors import DataError
from posttrain.evaluate.intervals import CONFIDENCE
from posttrain.evaluate.newton import minimize_each
from posttrain.evaluate.win_rate import average_by_prompt, check_verdicts

Row = dict[str, Any]

# Points per logit: 400 points are odds of 10 to 1, as in chess.
POINTS_PER_LOGIT = 400.0 / math.log(10.0)
# Each pair that met gets one half win each way, so that a model that wins everywhere keeps a finite rating.
PSEUDO_GAME = 0.5
# Standard deviation, in logits, of the prior on a strength: wide, there for resamples that lose the pseudo games.
STRENGTH_SCALE = 5.0


def ratings(
    matches: Mapping[tuple[str, str], Iterable[Row]], base: str, seed: int, num_bootstrap: int = 1000
) -> list[dict[str, Any]]:
    """Rate every model from all the pairs that met.

    P(A beats B) = 1 / (1 + 10 ** ((rating of B - rating of A) / 400)); the base has rating 0 (Bradley and Terry 1952).
    Preferences between 0 and 1 count as shares of a win. Intervals are bootstraps over prompts: a resample takes all
    matches of a prompt together, so prompts that are easy for everyone do not widen the differences. They are the
    rating and Student's quantile times the resamples' standard deviation: with 30 to 300 prompts these covered the
    truth more often than the resamples' percentiles, which fell to 0.88 (LOG.md has the table).

    Args:
        matches: (A, B) to the verdicts on A against B, as ``win_rate`` takes them.
        base: the model with rating 0.

    Returns:
        ``{"model", "rating", "low", "high"}``, the base first, then in the order of first appearance.

    Raises:
        DataError: the base met nobody, a model meets itself, or some model is not connected to the base by matches.
    """
    models = _models(matches, base)
    points, reach = rate_wins(_wins(matches, models), np.random.default_rng(seed), num_bootstrap)
    return [
        {
            "model": model,
            "rating": float(points[index]),
            "low": float(points[index] - reach[index]),
            "high": float(points[index] + reach[index]),
        }
        for index, model in enumerate(models)
    ]


def rate_wins(wins_PMM: np.ndarray, rng: np.random.Generator, num_bootstrap: int) -> tuple[np.ndarray, np.ndarray]:
    """Rate M models by their games on P prompts, the first at 0.

    Args:
        wins_PMM: entry (p, i, j) is the share by which i beat j on prompt p.
        rng: draws the resamples of the prompts.
        num_bootstrap: how many.

    Returns:
        Ratings in points, and how far the 95 % intervals reach to either side.
    """
    size = wins_PMM.shape[1]
    rows = np.concatenate([wins_PMM, _pseudo_games(wins_PMM.sum(axis=0))]).reshape(-1, size * size)
    num_rows = len(rows)
    strengths = fit_strengths(rows.sum(axis=0).reshape(1, size, size), np.zeros(size))[0]
    counts = rng.multinomial(num_rows, np.full(num_rows, 1.0 / num_rows), size=num_bootstrap)
    draws = fit_strengths((counts.astype(float) @ rows).reshape(-1, size, size), strengths)
    quantile = float(student_t.ppf((1.0 + CONFIDENCE) / 2, num_rows - 1))
    # resamples of n rows vary by (n - 1) / n too little
    reach = quantile * draws.std(axis=0, ddof=1) * math.sqrt(num_rows / (num_rows - 1))
    return strengths * POINTS_PER_LOGIT, reach * POINTS_PER_LOGIT


def fit_strengths(wins_RMM: np.ndarray, start_M: np.ndarray) -> np.ndarray:
    """Fit strengths in logits, the first model at 0, for each of R tables of wins.

    Args:
        wins_RMM: entry (r, i, j) is how often i beat j in table r; shares of a win are allowed.
        start_M: strengths to start from.

    Returns:
        strengths_RM.
    """
    prior = np.eye(wins_RMM.shape[1]) / STRENGTH_SCALE**2
    games_RMM = wins_RMM + wins_RMM.swapaxes(1, 2)

    def derivatives(strengths_RM: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chance_RMM = expit(strengths_RM[:, :, None] - strengths_RM[:, None, :])
        surprise_RMM = wins_RMM * (1.0 - chance_RMM)
        gradient_RM = surprise_RMM.sum(axis=1) - surprise_RMM.sum(axis=2) + strengths_RM / STRENGTH_SCALE**2
        weight_RMM = games_RMM * chance_RMM * (1.0 - chance_RMM)
        diagonal_RMM = weight_RMM.sum(axis=2)[:, :, None] * np.eye(weight_RMM.shape[1])
        return gradient_RM, diagonal_RMM - weight_RMM + prior

    fitted_RM = minimize_each(derivatives, np.tile(start_M, (len(wins_RMM), 1)))
    return fitted_RM - fitted_RM[:, :1]


def _models(matches: Mapping[tuple[str, str], Iterable[Row]], base: str) -> list[str]:
    """List the base first and the others in the order they appear; refuse models that never meet the base's circle."""
    models = list(dict.fromkeys([base, *(model for pair in matches for model in pair)]))
    selves = sorted({first for first, second in matches if first == second})
    if selves:
        raise DataError(f"ratings: {selves[0]!r} is matched against itself; leave such pairs out")
    reached = {base}
    while True:
        more = {model for pair in matches if reached & set(pair) for model in pair} - reached
        if not more:
            break
        reached |= more
    left = [model for model in models if model not in reached]
    if left or len(models) < 2:
        raise DataError(
            f"ratings: {', '.join(left) or 'no model'} has no chain of matches to the base {base!r}; "
            "compare at least one pair that links them"
        )
    return models


def _wins(matches: Mapping[tuple[str, str], Iterable[Row]], models: list[str]) -> np.ndarray:
    """Give wins, prompts × models × models: entry (p, i, j) is the share by which i beat j on prompt p."""
    number = {model: index for index, model in enumerate(models)}
    games: list[tuple[str, int, int, float]] = []
    for (first, second), verdicts in matches.items():
        rows = list(verdicts)
        check_verdicts(rows)
        averaged = average_by_prompt(rows)
        if not averaged:
            raise DataError(f"ratings: no readable verdict on {first!r} against {second!r}; leave the pair out")
        games += [(row["prompt_id"], number[first], number[second], row["preference"]) for row in averaged]
    prompt_ids = {prompt_id: index for index, prompt_id in enumerate(sorted({game[0] for game in games}))}
    wins_PMM = np.zeros((len(prompt_ids), len(models), len(models)))
    for prompt_id, first_index, second_index, preference in games:
        wins_PMM[prompt_ids[prompt_id], first_index, second_index] += preference
        wins_PMM[prompt_ids[prompt_id], second_index, first_index] += 1.0 - preference
    return wins_PMM


def _pseudo_games(wins_MM: np.ndarray) -> np.ndarray:
    """Give two prompts on which each pair that met is won by the one, then by the other.

    As rows of their own they are resampled too: else 20 wins of 20 would have an interval of no width.
    """
    met = PSEUDO_GAME * ((wins_MM + wins_MM.T) > 0)
    return np.stack([np.triu(met, 1), np.tril(met, -1)])
