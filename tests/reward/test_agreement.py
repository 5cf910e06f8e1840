"""The report on a reward model, worked out by hand."""

import math
import random

import pytest

from reward.agreement import reward_model_report
from reward.errors import RewardError


def pair(chosen, rejected, strength=None, chosen_length=10, rejected_length=10):
    return {
        "prompt": [{"role": "user", "content": "q"}],
        "chosen": [{"role": "assistant", "content": "c" * chosen_length}],
        "rejected": [{"role": "assistant", "content": "r" * rejected_length}],
        "chosen_score": chosen,
        "rejected_score": rejected,
        "strength": strength,
    }


def test_accuracy_counts_a_tie_one_half_and_apart():
    report = reward_model_report([pair(1, 0), pair(2, 0), pair(0, 1), pair(0.5, 0.5)])
    assert report["accuracy"] == 2.5 / 4
    assert (report["ties"], report["num_pairs"]) == (1, 4)
    assert report["mean_margin"] == pytest.approx((1 + 2 - 1 + 0) / 4)
    assert report["accuracy_low"] < 0.625 < report["accuracy_high"]


def test_accuracy_by_strength_in_the_order_of_strengths():
    rows = [pair(1, 0, "better"), pair(0, 1, "better"), pair(1, 0, "significantly_better"), pair(0, 1, "own word")]
    report = reward_model_report(rows)
    assert report["by_strength"] == {
        "significantly_better": {"accuracy": 1.0, "num_pairs": 1},
        "better": {"accuracy": 0.5, "num_pairs": 2},
        "own word": {"accuracy": 0.0, "num_pairs": 1},
    }
    assert list(report["by_strength"]) == ["significantly_better", "better", "own word"]


def test_length_only_and_length_matched_accuracy():
    rows = [pair(1, 0, None, 100, 50), pair(0, 1, None, 100, 50), pair(1, 0, None, 50, 100), pair(1, 0, None, 100, 95),
            pair(0, 1, None, 30, 30)]  # fmt: skip
    report = reward_model_report(rows)
    assert report["length_only_accuracy"] == pytest.approx((1 + 1 + 0 + 1 + 0.5) / 5)
    assert report["num_length_matched"] == 2 and report["length_matched_accuracy"] == 0.5


def test_a_model_that_likes_length_is_found_out():
    chance = random.Random(0)
    lengths = [(chance.randint(5, 200), chance.randint(5, 200)) for _ in range(200)]
    report = reward_model_report([pair(a / 10, b / 10, None, a, b) for a, b in lengths])
    assert report["score_length_correlation"] == pytest.approx(1.0)
    assert report["margin_length_correlation"] == pytest.approx(1.0, abs=1e-3)
    assert report["accuracy"] == report["length_only_accuracy"]


def test_calibration_error_by_hand():
    sure = math.log(9)  # sigmoid 0.9
    rows = [pair(sure, 0)] * 3 + [pair(0, sure)]  # right in 3 of 4, as sure as 0.9 each time
    report = reward_model_report(rows)
    assert report["ece"] == pytest.approx(0.15)
    (filled,) = [entry for entry in report["calibration"] if entry["count"]]
    assert filled["count"] == 4 and filled["accuracy"] == 0.75 and filled["confidence"] == pytest.approx(0.9)
    assert filled["low"] <= 0.9 <= filled["high"]
    assert len(report["calibration"]) == 10


def test_a_calibrated_model_has_a_small_error():
    chance = random.Random(1)
    rows = []
    for _ in range(4000):
        margin = chance.uniform(-3, 3)
        right = chance.random() < 1 / (1 + math.exp(-margin))
        rows.append(pair(margin, 0) if right else pair(0, margin))
    assert reward_model_report(rows)["ece"] < 0.03


def test_huge_margins_do_not_overflow():
    report = reward_model_report([pair(1e4, -1e4), pair(-1e4, 1e4)])
    assert report["ece"] == pytest.approx(0.5)


def test_what_the_pairs_do_not_determine_is_none():
    report = reward_model_report([pair(1, 0, None, 10, 90)])
    assert report["length_matched_accuracy"] is None and report["margin_length_correlation"] is None


def test_no_pairs_and_no_scores_are_refused():
    with pytest.raises(RewardError, match="no preference pairs"):
        reward_model_report([])
    with pytest.raises(RewardError, match="pair 2: chosen_score is None"):
        reward_model_report([pair(1, 0), pair(None, 0)])
    with pytest.raises(RewardError, match="nan"):
        reward_model_report([pair(1, float("nan"))])
