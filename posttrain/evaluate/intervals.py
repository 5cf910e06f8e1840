"""Intervals for a mean over prompts."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtri, stdtrit

from posttrain.core.errors import DataError

CONFIDENCE = 0.95


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Give the 95 % interval of the mean of values in [0, 1], one value per prompt.

    Wilson's interval with an effective number of prompts, m (1 - m) / (s² / n), in place of n, and Student's quantile
    with n - 1 degrees of freedom in place of the normal one (Franco, Little, Louis and Slud 2019, "Comparative study of
    confidence intervals for proportions in complex sample surveys", Journal of Survey Statistics and Methodology 7).
    Ties and averages within a prompt make s² smaller than that of wins and losses, and the number larger. It mirrors
    under ``values -> 1 - values``: all is computed around one half. A percentile bootstrap covered the truth in 64 to
    92 % of runs where 20 prompts met true rates of 0.9 and above; LOG.md has the table.

    Values that are all equal have no variance to go by: see ``unanimous_interval``.

    Raises:
        DataError: no values.
    """
    if values.size == 0:
        raise DataError("an interval was asked for no prompts at all; there is nothing to average")
    if np.ptp(values) == 0.0:
        return unanimous_interval(float(values[0]), values.size)
    lean = float(np.mean(values - 0.5))
    spread = 0.25 - lean * lean  # m (1 - m)
    effective = values.size * spread / float(np.var(values - 0.5, ddof=1))
    return _wilson(lean, effective, float(stdtrit(values.size - 1, (1.0 + CONFIDENCE) / 2)))


def wilson_interval(share: float, count: float) -> tuple[float, float]:
    """Give the 95 % interval of a share of ``count`` (Wilson 1927); ties may make it no whole number of them.

    The libraries' functions (scipy's ``binomtest``, statsmodels' ``proportion_confint``) take whole successes, scipy's
    refuses others.
    """
    low, high = _wilson(share - 0.5, count, float(ndtri((1.0 + CONFIDENCE) / 2)))
    # Where all were right the upper end is 1, which rounding may miss.
    return max(0.0, min(share, low)), min(1.0, max(share, high))


def _wilson(lean: float, count: float, quantile: float) -> tuple[float, float]:
    """Give Wilson's interval of one half plus ``lean``, computed around one half so that it mirrors exactly."""
    pull = quantile**2 / count
    middle = lean / (1.0 + pull)
    reach = math.sqrt(pull * (0.25 - lean * lean + pull / 4.0)) / (1.0 + pull)
    return 0.5 + (middle - reach), 0.5 + (middle + reach)


def unanimous_interval(value: float, num_values: int) -> tuple[float, float]:
    """Give the 95 % interval of a mean when every one of ``num_values`` prompts gave the same value.

    Wilson's upper bound for 0 successes of n limits the share of prompts that could have come out otherwise; that share
    is moved to 0 for the lower end and to 1 for the upper one. For values of 0 or 1 this is exactly Wilson's interval.
    """
    share = wilson_interval(0.0, num_values)[1]
    return value - share * value, value + share * (1.0 - value)
