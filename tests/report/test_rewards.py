"""Histograms of scores."""

from __future__ import annotations

import random

from posttrain.report.rewards import NUM_BINS, histograms
from posttrain.report.scores import rewards_section


def test_every_score_is_in_one_bin_and_rounds_share_the_bins():
    rng = random.Random(0)
    scores = {name: [rng.gauss(middle, 1) for _ in range(500)] for name, middle in (("1", 0), ("2", 3))}
    scores["1"] += [1e6, -1e6]  # outliers widen no bin, and are counted in the outermost
    found = histograms({name: {"count": values, "kept": values[:50]} for name, values in scores.items()})
    edges = [[(bin["low"], bin["high"]) for bin in bins] for bins in found.values()]
    assert edges[0] == edges[1] and len(edges[0]) == NUM_BINS
    assert edges[0][0][0] > -10 and edges[0][-1][1] < 10
    assert [sum(bin["count"] for bin in bins) for bins in found.values()] == [502, 500]
    assert all(
        sum(bin["kept"] for bin in bins) == 50 and not any(bin["rejected"] for bin in bins) for bins in found.values()
    )
    assert all(left[1] == right[0] for left, right in zip(edges[0], edges[0][1:], strict=False))


def test_equal_scores_have_bins_too():
    (bins,) = histograms({"1": {"count": [0.25] * 4}}).values()
    assert (bins[0]["low"], bins[-1]["high"], sum(bin["count"] for bin in bins)) == (-0.25, 0.75, 4)
    assert histograms({"1": {"count": []}}) == {}


def test_medians_are_to_within_a_bin():
    bins = [
        {"low": low, "high": low + 1.0, "count": count, "kept": 0, "rejected": 0}
        for low, count in ((0.0, 1), (1.0, 5), (2.0, 2))
    ]
    _, table = rewards_section({"rewards": {"1": bins}}).blocks
    assert table.rows == [["round 1", "1.5", "–", "–", "8"]]  # the fourth of eight lies in the second bin
