"""Ratings recover planted strengths."""

import math

import numpy as np
import pytest

from posttrain.core.errors import DataError
from posttrain.evaluate.rating import ratings


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
