"""Length-controlled win rate: what A's win rate would be if its answers were as long as B's.

After AlpacaEval 2 (Dubois, Galambosi, Liang and Hashimoto 2024, "Length-Controlled AlpacaEval"): a logistic regression
of the preference on a constant and the tanh of the standardised length difference, read at a difference of zero. Their
third term, the difficulty of each instruction, is left out: it is estimated over many models, and here there are two.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from posttrain.evaluate.intervals import CONFIDENCE

# One half win and one half loss at equal length: keeps the constant finite when A wins everywhere.
PSEUDO_GAMES = 1.0
# Standard deviation, in logits, of the prior on the length term: wide enough for a judge that only looks at length.
SLOPE_SCALE = 5.0


def length_controlled(
    preferences: np.ndarray, length_differences: np.ndarray, seed: int, num_bootstrap: int
) -> tuple[float, float, float]:
    """Give the length-controlled win rate and its 95 % interval (percentile bootstrap over prompts).

    Args:
        preferences: one number in [0, 1] per prompt; numbers between 0 and 1 count as they are.
        length_differences: length of A minus length of B, per prompt, in any one unit.

    Returns:
        Rate, low, high.
    """
    feature = length_feature(length_differences)
    fitted = fit(preferences, feature, np.ones_like(preferences), np.zeros(2))
    rng = np.random.default_rng(seed)
    share = np.full(preferences.size + 1, 1.0 / (preferences.size + 1))
    # The pseudo games are resampled with the prompts: else a unanimous judge would have an interval of no width.
    counts = rng.multinomial(preferences.size + 1, share, size=num_bootstrap).astype(float)
    rates = [expit(fit(preferences, feature, row[:-1], fitted, PSEUDO_GAMES * row[-1])[0]) for row in counts]
    tail = (1.0 - CONFIDENCE) / 2
    low, high = np.quantile(rates, [tail, 1.0 - tail])
    rate = float(expit(fitted[0]))
    return rate, min(float(low), rate), max(float(high), rate)


def length_feature(length_differences: np.ndarray) -> np.ndarray:
    """Give tanh(difference / standard deviation of the differences); zeros where the differences do not vary."""
    spread = float(np.std(length_differences))
    if spread == 0.0:
        return np.zeros(length_differences.shape)
    return np.tanh(length_differences / spread)


def fit(
    preferences: np.ndarray,
    feature: np.ndarray,
    weights: np.ndarray,
    start: np.ndarray,
    pseudo_games: float = PSEUDO_GAMES,
) -> np.ndarray:
    """Fit the weighted, regularised logistic regression; the two coefficients are (constant, length term).

    The loss is strictly convex for ``pseudo_games`` > 0, and bounded by a wide normal prior on the constant else.
    """

    def loss(coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        logits = coefficients[0] + coefficients[1] * feature
        residual = weights * (expit(logits) - preferences)
        constant, slope = coefficients
        value = weights @ (np.logaddexp(0.0, logits) - preferences * logits)
        value += pseudo_games * (np.logaddexp(0.0, constant) - 0.5 * constant)
        value += (constant**2 / 4 + slope**2) / (2 * SLOPE_SCALE**2)
        pull = pseudo_games * (expit(constant) - 0.5) + constant / (4 * SLOPE_SCALE**2)
        return float(value), np.array([residual.sum() + pull, residual @ feature + slope / SLOPE_SCALE**2])

    return minimize(loss, start, jac=True, method="BFGS").x
