"""Intervals for a mean over prompts."""

from __future__ import annotations

import numpy as np
from scipy.stats import binomtest, bootstrap

from posttrain.core.errors import DataError

CONFIDENCE = 0.95


def mean_interval(values: np.ndarray, seed: int, num_bootstrap: int) -> tuple[float, float]:
    """Give the 95 % interval of the mean of values in [0, 1], one value per prompt.

    The percentile bootstrap over prompts: it mirrors exactly under ``values -> 1 - values``, and for means of bounded
    values it covers the truth as often as BCa. The resampled quantity is ``values - 0.5``, so that a mirrored input
    gives the same floating point numbers with the other sign.

    Values that are all equal tell a bootstrap nothing (20 wins of 20 would give [1, 1]): see ``unanimous_interval``.

    Raises:
        DataError: no values.
    """
    if values.size == 0:
        raise DataError("an interval was asked for no prompts at all; there is nothing to average")
    if np.ptp(values) == 0.0:
        return unanimous_interval(float(values[0]), values.size)
    result = bootstrap(
        (values - 0.5,),
        np.mean,
        n_resamples=num_bootstrap,
        batch=max(1, 4_000_000 // values.size),
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return 0.5 + float(result.confidence_interval.low), 0.5 + float(result.confidence_interval.high)


def unanimous_interval(value: float, num_values: int) -> tuple[float, float]:
    """Give the 95 % interval of a mean when every one of ``num_values`` prompts gave the same value.

    Wilson's upper bound for 0 successes of n limits the share of prompts that could have come out otherwise; that share
    is moved to 0 for the lower end and to 1 for the upper one. For values of 0 or 1 this is exactly Wilson's interval.
    """
    share = float(binomtest(0, num_values).proportion_ci(CONFIDENCE, method="wilson").high)
    return value - share * value, value + share * (1.0 - value)
