"""Length-controlled win rate: what A's win rate would be if its answers were as long as B's.

After AlpacaEval 2 (Dubois, Galambosi, Liang and Hashimoto 2024, "Length-Controlled AlpacaEval"): a logistic regression
of the preference on a constant and the tanh of the standardised length difference, read at a difference of zero. Their
third term, the difficulty of each instruction, is left out: it is estimated over many models, and here there are two.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from posttrain.evaluate.intervals import CONFIDENCE
from posttrain.evaluate.newton import minimize_each

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
    everyone = np.ones((1, preferences.size))
    fitted = fit(preferences, feature, everyone, np.array([PSEUDO_GAMES]), np.zeros(2))[0]
    rng = np.random.default_rng(seed)
    share = np.full(preferences.size + 1, 1.0 / (preferences.size + 1))
    # The pseudo games are resampled with the prompts: else a unanimous judge would have an interval of no width.
    counts = rng.multinomial(preferences.size + 1, share, size=num_bootstrap).astype(float)
    rates = expit(fit(preferences, feature, counts[:, :-1], PSEUDO_GAMES * counts[:, -1], fitted)[:, 0])
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
    preferences_P: np.ndarray,
    feature_P: np.ndarray,
    weights_RP: np.ndarray,
    pseudo_games_R: np.ndarray,
    start_C: np.ndarray,
) -> np.ndarray:
    """Fit the weighted, regularised logistic regression for each of R weightings of P prompts.

    The loss is strictly convex: pseudo games pull on the constant, and wide normal priors on both coefficients.

    Returns:
        coefficients_RC, C = 2: the constant and the length term.
    """
    design_PC = np.stack([np.ones_like(feature_P), feature_P], axis=1)
    prior_C = np.array([1.0 / (4 * SLOPE_SCALE**2), 1.0 / SLOPE_SCALE**2])

    def derivatives(coefficients_RC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chance_RP = expit(coefficients_RC @ design_PC.T)
        at_zero_R = expit(coefficients_RC[:, 0])
        gradient_RC = (weights_RP * (chance_RP - preferences_P)) @ design_PC + coefficients_RC * prior_C
        gradient_RC[:, 0] += pseudo_games_R * (at_zero_R - 0.5)
        curve_RP = weights_RP * chance_RP * (1.0 - chance_RP)
        hessian_RCC = np.einsum("rp,pc,pd->rcd", curve_RP, design_PC, design_PC, optimize=True) + np.diag(prior_C)
        hessian_RCC[:, 0, 0] += pseudo_games_R * at_zero_R * (1.0 - at_zero_R)
        return gradient_RC, hessian_RCC

    return minimize_each(derivatives, np.tile(start_C, (len(weights_RP), 1)))
