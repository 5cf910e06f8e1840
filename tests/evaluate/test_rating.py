"""Ratings recover planted strengths."""

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from posttrain.core.errors import DataError
from posttrain.evaluate.rating import STRENGTH_SCALE, fit_strengths, ratings


def planted_matches(points, num_prompts, rng):
    models = list(points)
    matches = {}
    for i, first in enumerate(models):
        for second in models[i + 1 :]:
            chance = 1 / (1 + 10 ** ((points[second] - points[first]) / 400))
            outcomes = (rng.random(num_prompts) < chance).astype(float)
            matches[first, second] = [{"prompt_id": f"p{k}", "preference": float(v)} for k, v in enumerate(outcomes)]
    return matches


def test_planted_strengths_are_recovered():
    points = {"base": 0.0, "round_1": 120.0, "round_2": 200.0, "student": -80.0}
    rated = ratings(planted_matches(points, 1500, np.random.default_rng(0)), "base", seed=0, num_bootstrap=50)
    assert [entry["model"] for entry in rated] == list(points)
    assert rated[0] == {"model": "base", "rating": 0.0, "low": 0.0, "high": 0.0}
    for entry in rated[1:]:
        assert entry["rating"] == pytest.approx(points[entry["model"]], abs=30)
        assert entry["low"] < points[entry["model"]] < entry["high"]


def test_strengths_are_scikit_learns():
    """Bradley-Terry is a logistic regression on +1 for the one and -1 for the other model; here with the same prior."""
    rng = np.random.default_rng(1)
    wins = rng.integers(1, 40, size=(4, 4)) * (1 - np.eye(4))
    games = [(i, j) for i in range(4) for j in range(4) if i != j]
    design = np.array([np.eye(4)[i] - np.eye(4)[j] for i, j in games])
    theirs = LogisticRegression(C=STRENGTH_SCALE**2, fit_intercept=False, solver="newton-cholesky", tol=1e-12)
    outcomes, weights = np.repeat([1, 0], 12), np.array([wins[game] for game in games])
    # each game once as a win of the first and once as a loss of the second, so each weighs one half
    theirs.fit(np.concatenate([design, -design]), outcomes, sample_weight=np.concatenate([weights, weights]) / 2)
    strengths = theirs.coef_[0] - theirs.coef_[0, 0]
    assert fit_strengths(wins[None], np.zeros(4))[0] == pytest.approx(strengths, abs=1e-6)


def test_millions_of_games_end_within_rounding():
    wins = np.array([[[0, 1.0, 2.0], [3.0, 0, 2.0], [5.0, 4.0, 0]]])
    few, many = (fit_strengths(wins * scale, np.zeros(3))[0] for scale in (1e4, 1e8))
    assert many == pytest.approx(few, abs=1e-3)


def test_turning_every_pair_round_changes_nothing():
    points = {"base": 0.0, "round_1": 120.0, "round_2": 200.0}
    matches = planted_matches(points, 50, np.random.default_rng(0))
    turned = {
        pair[::-1]: [{**row, "preference": 1 - row["preference"]} for row in rows] for pair, rows in matches.items()
    }
    ours, theirs = (
        {entry["model"]: entry for entry in ratings(one, "base", seed=4, num_bootstrap=50)} for one in (matches, turned)
    )
    for model in points:
        for key in ("rating", "low", "high"):
            assert ours[model][key] == pytest.approx(theirs[model][key], abs=1e-3)


def test_two_models_give_the_log_odds():
    # 30 wins of 40 and the half win each way: odds 30.5 / 10.5, in points 400 * log10(2.905) = 185.2
    verdicts = [{"prompt_id": f"p{i}", "preference": 1.0 if i < 30 else 0.0} for i in range(40)]
    rated = ratings({("tuned", "base"): verdicts}, "base", seed=0, num_bootstrap=50)
    assert rated[1]["rating"] == pytest.approx(400 * math.log10(30.5 / 10.5), abs=2.0)


def test_all_wins_are_finite_with_an_interval():
    verdicts = [{"prompt_id": f"p{i}", "preference": 1.0} for i in range(20)]
    top = ratings({("tuned", "base"): verdicts}, "base", seed=0, num_bootstrap=200)[1]
    assert 0 < top["low"] < top["rating"] < top["high"] < 4000


def test_ties_everywhere_rate_zero():
    verdicts = [{"prompt_id": f"p{i}", "preference": 0.5} for i in range(20)]
    same = ratings({("base", "tuned"): verdicts}, "base", seed=0, num_bootstrap=100)[1]
    assert same["rating"] == pytest.approx(0.0, abs=0.5)
    assert same["low"] <= 0 <= same["high"]


def test_models_without_a_chain_to_the_base_are_refused():
    verdicts = [{"prompt_id": "p", "preference": 1.0}]
    with pytest.raises(DataError, match="c, d has no chain"):
        ratings({("a", "base"): verdicts, ("c", "d"): verdicts}, "base", seed=0)
    with pytest.raises(DataError, match="against itself"):
        ratings({("base", "base"): verdicts}, "base", seed=0)
