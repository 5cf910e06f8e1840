"""Length-controlled win rates on planted judges."""

import numpy as np
import pytest

from posttrain.evaluate.length_control import fit, length_controlled, length_feature


def test_a_judge_that_prefers_length_is_seen_through():
    rng = np.random.default_rng(0)
    differences = rng.normal(40.0, 50.0, size=400)
    preferences = (differences > 0).astype(float)
    assert preferences.mean() > 0.75
    rate, low, high = length_controlled(preferences, differences, seed=0, num_bootstrap=100)
    assert rate == pytest.approx(0.5, abs=0.1)
    assert low < 0.5 < high


def test_a_judge_blind_to_length_keeps_its_rate():
    rng = np.random.default_rng(1)
    differences = rng.normal(40.0, 50.0, size=1000)
    preferences = (rng.random(1000) < 0.7).astype(float)
    rate, low, high = length_controlled(preferences, differences, seed=0, num_bootstrap=100)
    assert rate == pytest.approx(preferences.mean(), abs=0.06)
    assert low < rate < high


def test_equal_lengths_give_the_smoothed_plain_rate():
    # 15 wins of 20 and one half win of one pseudo game, but for the wide prior: 15.5 / 21
    rate, low, high = length_controlled(np.repeat([1.0, 0.0], [15, 5]), np.zeros(20), seed=0, num_bootstrap=100)
    assert rate == pytest.approx(15.5 / 21, abs=0.002)
    assert low < rate < high


def test_all_wins_stay_finite_and_below_one():
    rate, low, high = length_controlled(np.ones(20), np.linspace(-5, 5, 20), seed=0, num_bootstrap=100)
    assert 0.9 < rate < 1.0
    assert low < rate <= high < 1.0


def test_planted_coefficients_are_recovered_from_soft_preferences():
    feature = length_feature(np.linspace(-3.0, 3.0, 4000))
    preferences = 1 / (1 + np.exp(-(0.4 + 1.5 * feature)))
    fitted = fit(preferences, feature, np.ones((1, 4000)), np.ones(1), np.zeros(2))[0]
    assert fitted == pytest.approx([0.4, 1.5], abs=0.01)


def test_feature_is_tanh_of_standardised_differences():
    # the differences -1 and 1 have standard deviation 1
    assert length_feature(np.array([-1.0, 1.0])) == pytest.approx([-np.tanh(1.0), np.tanh(1.0)])
    assert length_feature(np.array([7.0, 7.0])) == pytest.approx([0.0, 0.0])
