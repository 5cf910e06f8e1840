"""Length-controlled win rates on planted judges."""

import numpy as np
import pytest
import statsmodels.api as statsmodels
from sklearn.linear_model import LogisticRegression

from posttrain.evaluate.length_control import SLOPE_SCALE, fit, length_controlled, length_feature


def test_a_judge_that_prefers_length_is_seen_through():
    rng = np.random.default_rng(0)
    differences = rng.normal(40.0, 50.0, size=400)
    preferences = (differences > 0).astype(float)
    assert preferences.mean() > 0.75
    rate, low, high = length_controlled(preferences, differences)
    assert rate == pytest.approx(0.5, abs=0.1)
    assert low < 0.5 < high


def test_a_judge_blind_to_length_keeps_its_rate():
    rng = np.random.default_rng(1)
    differences = rng.normal(40.0, 50.0, size=1000)
    preferences = (rng.random(1000) < 0.7).astype(float)
    rate, low, high = length_controlled(preferences, differences)
    assert rate == pytest.approx(preferences.mean(), abs=0.06)
    assert low < rate < high


def test_equal_lengths_give_the_smoothed_plain_rate():
    # 15 wins of 20, and half a win of one pseudo game: 15.5 / 21
    rate, low, high = length_controlled(np.repeat([1.0, 0.0], [15, 5]), np.zeros(20))
    assert rate == pytest.approx(15.5 / 21, abs=1e-9)
    assert low < rate < high


def test_all_wins_stay_finite_and_below_one():
    rate, low, high = length_controlled(np.ones(20), np.linspace(-5, 5, 20))
    assert 0.9 < rate < 1.0
    assert low < rate <= high < 1.0


def test_planted_coefficients_are_recovered_from_soft_preferences():
    feature = length_feature(np.linspace(-3.0, 3.0, 4000))
    preferences = 1 / (1 + np.exp(-(0.4 + 1.5 * feature)))
    assert fit(preferences, feature) == pytest.approx([0.4, 1.5], abs=0.01)


def judged(num_prompts, seed):
    """Averages of four verdicts of a judge that likes A and length."""
    rng = np.random.default_rng(seed)
    differences = rng.normal(20.0, 50.0, size=num_prompts)
    chances = 1 / (1 + np.exp(-(0.6 + 1.5 * np.tanh(differences / 50.0))))
    return rng.binomial(4, chances) / 4, differences


@pytest.mark.parametrize("num_prompts", [12, 60, 2000])
def test_the_fit_is_scikit_learns(num_prompts):
    preferences, differences = judged(num_prompts, seed=num_prompts)
    feature = length_feature(differences)
    # a preference p is a win of weight p and a loss of weight 1 - p; half a win and half a loss at equal length
    features = np.tile(np.append(feature, 0.0), 2)[:, None]
    weights = np.concatenate([preferences, [0.5], 1 - preferences, [0.5]])
    theirs = LogisticRegression(C=SLOPE_SCALE**2, solver="newton-cholesky", tol=1e-12)
    theirs.fit(features, np.repeat([1, 0], num_prompts + 1), sample_weight=weights)
    assert fit(preferences, feature) == pytest.approx([theirs.intercept_[0], theirs.coef_[0, 0]], abs=1e-6)


def test_the_interval_is_statsmodels_robust_one():
    preferences, differences = judged(5000, seed=0)
    design = statsmodels.add_constant(length_feature(differences))
    theirs = statsmodels.GLM(preferences, design, family=statsmodels.families.Binomial()).fit(
        cov_type="HC1", use_t=True
    )
    expected = 1 / (1 + np.exp(-np.array([theirs.params[0], *theirs.conf_int()[0]])))
    # their fit has no pseudo game and no prior, which 5,000 prompts outweigh
    assert length_controlled(preferences, differences) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("num_prompts", [5, 40, 500])
def test_swapping_mirrors_rate_and_interval(num_prompts):
    preferences, differences = judged(num_prompts, seed=3)
    rate, low, high = length_controlled(preferences, differences)
    assert length_controlled(1 - preferences, -differences) == pytest.approx((1 - rate, 1 - high, 1 - low), abs=1e-9)


def test_two_prompts_say_nothing_about_the_interval():
    rate, low, high = length_controlled(np.array([1.0, 1.0]), np.array([3.0, -1.0]))
    assert 0.5 < rate < 1.0 and (low, high) == (0.0, 1.0)


def test_many_prompts_end_within_rounding():
    preferences, differences = np.tile(judged(100, seed=1), 3000)
    small, large = length_controlled(*judged(100, seed=1)), length_controlled(preferences, differences)
    assert large[0] == pytest.approx(small[0], abs=0.01)
    assert large[2] - large[1] < (small[2] - small[1]) / 40


def test_feature_is_tanh_of_standardised_differences():
    # the differences -1 and 1 have standard deviation 1
    assert length_feature(np.array([-1.0, 1.0])) == pytest.approx([-np.tanh(1.0), np.tanh(1.0)])
    assert length_feature(np.array([7.0, 7.0])) == pytest.approx([0.0, 0.0])
