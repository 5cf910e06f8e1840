"""95 % intervals cover the truth in 93 to 97 % of simulated evaluations."""

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binom

from posttrain.evaluate.intervals import mean_interval
from posttrain.evaluate.length_control import length_controlled
from posttrain.evaluate.rating import POINTS_PER_LOGIT, rate_wins

RUNS = 1000


def covered(intervals, truth):
    return np.mean([low <= truth <= high for low, high in intervals])


@pytest.mark.parametrize(("num_prompts", "least"), [(20, 0.93), (50, 0.93), (100, 0.93), (200, 0.94), (500, 0.94)])
def test_wins_and_losses(num_prompts, least):
    """The exact coverage, over all numbers of wins; with few prompts it can only jump, so it is averaged over rates."""
    wins = np.arange(num_prompts + 1)
    intervals = np.array([mean_interval(np.repeat([1.0, 0.0], [k, num_prompts - k])) for k in wins])
    rates = np.linspace(0.5, 0.95, 10)
    coverage = [
        binom.pmf(wins, num_prompts, rate)[(intervals[:, 0] <= rate) & (rate <= intervals[:, 1])].sum()
        for rate in rates
    ]
    assert 0.94 <= np.mean(coverage) <= 0.97
    assert min(coverage) >= least


def with_ties(rng, size, rate):
    shares = [0.75 * (1 - rate), 0.25, 0.75 * rate]
    return rng.choice([0.0, 0.5, 1.0], size=size, p=shares), 0.125 + 0.75 * rate


def averaged(rng, size, rate):
    """Four samples a prompt, and prompts that differ in how often A wins."""
    return rng.binomial(4, rng.beta(2 * rate, 2 * (1 - rate), size=size)) / 4, rate


def every_sample_with_every_sample(rng, size, rate):
    """Three samples a side, nine comparisons a prompt; the truth is that of very many prompts."""

    def draw(shape):
        lean = rng.normal(4 * (rate - 0.5), 1.0, size=(*shape, 1, 1))
        scores_a, scores_b = rng.normal(size=(*shape, 3, 1)), rng.normal(size=(*shape, 1, 3))
        return (lean + scores_a > scores_b).mean(axis=(-2, -1))

    return draw(size), draw((200_000,)).mean()


@pytest.mark.parametrize("draw", [with_ties, averaged, every_sample_with_every_sample])
@pytest.mark.parametrize(("num_prompts", "rate"), [(30, 0.5), (50, 0.7), (100, 0.6), (100, 0.9), (300, 0.8)])
def test_ties_and_averages_within_prompts(draw, num_prompts, rate):
    preferences, truth = draw(np.random.default_rng(num_prompts), (RUNS, num_prompts), rate)
    assert 0.93 <= covered(map(mean_interval, preferences), truth) <= 0.97


@pytest.mark.parametrize(("num_prompts", "constant", "slope", "samples"), [(50, 0.85, 2.0, 4)])
def test_length_controlled_rates(num_prompts, constant, slope, samples):
    rng = np.random.default_rng(0)
    differences = rng.normal(20.0, 50.0, size=(RUNS, num_prompts))
    chances = expit(constant + slope * np.tanh(differences / 50.0))
    preferences = rng.binomial(samples, chances) / samples
    intervals = [length_controlled(*run)[1:] for run in zip(preferences, differences, strict=True)]
    assert 0.93 <= covered(intervals, expit(constant)) <= 0.97


@pytest.mark.parametrize(("num_prompts", "samples"), [(100, 2)])
def test_ratings(num_prompts, samples):
    """Three models on the same prompts, each compared with each."""
    rng = np.random.default_rng(num_prompts)
    planted = np.array([0.0, 0.7, 1.2])
    hits = np.zeros(2)
    for _ in range(RUNS):
        wins_PMM = np.zeros((num_prompts, 3, 3))
        for i, j in ((1, 0), (2, 0), (2, 1)):
            wins_PMM[:, i, j] = rng.binomial(samples, expit(planted[i] - planted[j]), size=num_prompts) / samples
            wins_PMM[:, j, i] = 1.0 - wins_PMM[:, i, j]
        points, reach = rate_wins(wins_PMM, rng, num_bootstrap=100)
        hits += np.abs(points - planted * POINTS_PER_LOGIT)[1:] <= reach[1:]
    assert hits.min() / RUNS >= 0.93 and hits.max() / RUNS <= 0.97
