"""Agreement between judges: do two of them say the same about the same answers?

Each judge's verdicts on a prompt are averaged and put into one of three categories: A better, tie, B better. Raw
agreement is the share of prompts in one category; Cohen's kappa and Gwet's AC1 take off what chance would give. Kappa
falls towards 0 where nearly all verdicts are of one category, however often the judges agree ("kappa's paradox"), and a
strong policy makes just such verdicts; AC1 does not, so the interval is AC1's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from scipy.stats import binomtest, bootstrap
from sklearn.metrics import cohen_kappa_score

from posttrain.evaluate.intervals import CONFIDENCE
from posttrain.evaluate.win_rate import average_by_prompt, check_verdicts

Row = dict[str, Any]
Pair = tuple[str, str]

# Shapes: P prompts, R resamples, K categories (both axes of a table: the first judge's, then the second's).
CATEGORIES = (-1, 0, 1)


def judge_agreement(
    verdicts: Mapping[str, Mapping[Pair, Iterable[Row]]], seed: int, num_bootstrap: int = 1000
) -> list[Row]:
    """Measure how far every two judges agree, over all pairs of models and prompts that both decided.

    Args:
        verdicts: judge → (A, B) → verdicts on A against B, rows of ``prompt_id`` and ``preference`` as
            ``win_rate.win_rate`` takes them. A judge that was shown the models as (B, A) is turned round.
        seed: of the bootstrap over prompts; all pairs of a prompt are drawn together.
        num_bootstrap: resamples of the prompts.

    Returns:
        A row for every two judges: ``judge_a``, ``judge_b``, ``num_pairs`` (verdicts that both gave), ``agreement`` in
        [0, 1], ``kappa``, ``ac1`` in [-1, 1] and the 95 % interval of AC1, ``low`` and ``high``. Numbers that the
        verdicts do not determine are None: all of them where nothing was decided by both, kappa where all verdicts of
        both are of one category, the interval where resamples of the prompts do not: one prompt, for example.

    Raises:
        DataError: a preference outside [0, 1].
    """
    decided = {judge: _decisions(of_judge) for judge, of_judge in verdicts.items()}
    return [
        {"judge_a": first, "judge_b": second, **_compare(decided[first], decided[second], seed, num_bootstrap)}
        for first, second in itertools.combinations(decided, 2)
    ]


def ac1(tables_RKK: np.ndarray) -> np.ndarray:
    """Give Gwet's AC1 of tables of counts, whatever their leading shape.

    (p_a - p_e) / (1 - p_e), where p_a is the share on the diagonal and p_e = sum of pi_k (1 - pi_k) / (K - 1), pi_k
    being the mean of both judges' shares of category k (Gwet 2008, "Computing inter-rater reliability and its variance
    in the presence of high agreement", British Journal of Mathematical and Statistical Psychology 61, eq. 8).
    """
    shares = tables_RKK / tables_RKK.sum(axis=(-2, -1), keepdims=True)
    observed = np.trace(shares, axis1=-2, axis2=-1)
    expected = _chance(shares)
    return np.asarray((observed - expected) / (1.0 - expected))


def _chance(shares_RKK: np.ndarray) -> np.ndarray:
    shares_RK = (shares_RKK.sum(axis=-1) + shares_RKK.sum(axis=-2)) / 2
    return np.asarray((shares_RK * (1.0 - shares_RK)).sum(axis=-1) / (shares_RK.shape[-1] - 1))


def _decisions(of_judge: Mapping[Pair, Iterable[Row]]) -> dict[tuple[str, Pair], int]:
    """Give the category of every prompt and pair of models, the pair's names in alphabetical order."""
    found: dict[tuple[str, Pair], int] = {}
    for (a, b), verdicts in of_judge.items():
        rows = list(verdicts)
        check_verdicts(rows)
        for row in average_by_prompt(rows):
            sign = (row["preference"] > 0.5) - (row["preference"] < 0.5)
            found[row["prompt_id"], (min(a, b), max(a, b))] = sign if a <= b else -sign
    return found


def _compare(
    first: Mapping[tuple[str, Pair], int], second: Mapping[tuple[str, Pair], int], seed: int, num_bootstrap: int
) -> Row:
    shared = sorted(first.keys() & second.keys())
    if not shared:
        names = ("agreement", "kappa", "ac1", "low", "high")
        return {"num_pairs": 0, **dict.fromkeys(names, None)}
    ours, theirs = [first[key] for key in shared], [second[key] for key in shared]
    prompts, places = np.unique([prompt_id for prompt_id, _ in shared], return_inverse=True)
    tables_PKK = np.zeros((len(prompts), len(CATEGORIES), len(CATEGORIES)))
    np.add.at(tables_PKK, (places, np.searchsorted(CATEGORIES, ours), np.searchsorted(CATEGORIES, theirs)), 1.0)
    table_KK = tables_PKK.sum(axis=0)
    low, high = _interval(tables_PKK, seed, num_bootstrap)
    return {
        "num_pairs": len(shared),
        "agreement": float(np.trace(table_KK) / len(shared)),
        "kappa": float(cohen_kappa_score(ours, theirs)) if len({*ours, *theirs}) > 1 else None,
        "ac1": float(ac1(table_KK)),
        "low": low,
        "high": high,
    }


def _interval(tables_PKK: np.ndarray, seed: int, num_bootstrap: int) -> tuple[float, float] | tuple[None, None]:
    """Give AC1's 95 % interval: the BCa bootstrap over prompts, or Wilson's bound where all verdicts agree.

    None for both ends where there is a single prompt to resample, or BCa has no finite answer.
    """
    table_KK = tables_PKK.sum(axis=0)
    value, num_prompts = float(ac1(table_KK)), len(tables_PKK)
    agreed = np.trace(tables_PKK, axis1=1, axis2=2)
    totals = tables_PKK.sum(axis=(1, 2))
    if np.all(agreed == totals) or np.all(agreed == 0):
        # Resamples of such prompts would nearly all say the same. Wilson's bound limits the share of other prompts.
        other = float(binomtest(0, num_prompts).proportion_ci(CONFIDENCE, method="wilson").high)
        reach = other / (1.0 - float(_chance(table_KK / table_KK.sum())))
        return (value - reach, value) if np.all(agreed == totals) else (value, value + reach)
    if num_prompts < 2:
        return None, None
    result = bootstrap(
        (np.arange(num_prompts),),
        lambda places, axis: ac1(tables_PKK[places].sum(axis=-3)),
        n_resamples=num_bootstrap,
        batch=max(1, 1_000_000 // num_prompts),
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=np.random.default_rng(seed),
    )
    low, high = float(result.confidence_interval.low), float(result.confidence_interval.high)
    return (min(low, value), max(high, value)) if math.isfinite(low + high) else (None, None)
