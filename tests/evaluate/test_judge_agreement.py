"""Agreement between judges, against published numbers and by hand."""

import numpy as np
import pytest

from posttrain.core.errors import DataError
from posttrain.evaluate.judge_agreement import ac1, judge_agreement

PAIR = ("round_1", "base")


def verdicts(preferences, pair=PAIR):
    return {pair: [{"prompt_id": f"p{i}", "preference": value} for i, value in enumerate(preferences)]}


def agreement(first, second):
    (row,) = judge_agreement({"gold": first, "llm": second}, seed=0, num_bootstrap=200)
    return row


def test_ac1_of_the_published_example():
    # Gwet 2002, 125 subjects: 118 both +, 5 and 2 apart, none both -. p_a = 118/125; pi_+ = (123 + 120) / 250 = 0.972;
    # p_e = 2 * 0.972 * 0.028 = 0.054432; (0.944 - 0.054432) / 0.945568 = 0.94078
    assert ac1(np.array([[118.0, 5.0], [2.0, 0.0]])) == pytest.approx(0.94078, abs=1e-5)


def test_three_numbers_by_hand():
    # gold: A A A A tie B; llm: A A A B tie A -> they agree on 4 of 6.
    # shares of gold A 4/6, tie 1/6, B 1/6; of llm the same.
    # kappa: p_e = 16/36 + 1/36 + 1/36 = 1/2 -> (4/6 - 1/2) / (1/2) = 1/3
    # AC1: p_e = (4/6 * 2/6 + 2 * 1/6 * 5/6) / 2 = (8/36 + 10/36) / 2 = 1/4 -> (4/6 - 1/4) / (3/4) = 5/9
    row = agreement(verdicts([1, 0.9, 1, 0.75, 0.5, 0]), verdicts([1, 1, 0.6, 0, 0.5, 1]))
    assert (row["judge_a"], row["judge_b"], row["num_pairs"]) == ("gold", "llm", 6)
    assert row["agreement"] == pytest.approx(4 / 6)
    assert row["kappa"] == pytest.approx(1 / 3)
    assert row["ac1"] == pytest.approx(5 / 9)
    assert row["low"] < 5 / 9 < row["high"]


def test_kappa_falls_where_one_model_always_wins_and_ac1_does_not():
    # 96 agree on A, 2 and 2 apart: agreement 0.96, kappa below 0
    row = agreement(verdicts([1] * 98 + [0, 0]), verdicts([1] * 96 + [0, 0, 1, 1]))
    assert row["agreement"] == pytest.approx(0.96)
    assert row["kappa"] < 0 and row["ac1"] > 0.95


def test_a_pair_shown_the_other_way_round_is_turned():
    same = agreement(verdicts([1, 0, 0.5, 0.2]), verdicts([0, 1, 0.5, 0.8], pair=PAIR[::-1]))
    assert (same["agreement"], same["kappa"], same["ac1"]) == (1.0, 1.0, 1.0)


def test_samples_of_a_prompt_are_averaged_and_unreadable_verdicts_have_no_say():
    rows = [{"prompt_id": "p0", "preference": value} for value in (1, 1, 0)] + [{"prompt_id": "p1", "preference": None}]
    row = agreement({PAIR: rows}, verdicts([1, 0]))
    assert (row["num_pairs"], row["agreement"], row["kappa"]) == (1, 1.0, None)


def test_only_what_both_judged_is_compared():
    row = agreement(verdicts([1, 0]), verdicts([1, 0], pair=("round_2", "base")))
    assert row["num_pairs"] == 0
    assert [row[key] for key in ("agreement", "kappa", "ac1", "low", "high")] == [None] * 5


def test_judges_that_always_agree_have_an_interval():
    # Wilson's bound for 0 of 20: 3.8415 / 23.8415 = 0.16113; p_e = 2 * (1/2 * 1/2) / 2 = 1/4 -> 1 - 0.16113 / 0.75
    row = agreement(verdicts([1, 0] * 10), verdicts([1, 0] * 10))
    assert (row["low"], row["high"]) == (pytest.approx(1 - 0.161127 / 0.75, abs=1e-5), 1.0)


def test_every_two_judges_once_and_the_order_of_judges_changes_no_number():
    of_judges = {"x": verdicts([1, 0, 1, 0.5]), "y": verdicts([1, 1, 1, 0]), "z": verdicts([0, 0, 1, 0.5])}
    rows = judge_agreement(of_judges, seed=0, num_bootstrap=50)
    assert [(row["judge_a"], row["judge_b"]) for row in rows] == [("x", "y"), ("x", "z"), ("y", "z")]
    turned = judge_agreement(dict(reversed(of_judges.items())), seed=0, num_bootstrap=50)
    assert turned[-1] == {**rows[0], "judge_a": "y", "judge_b": "x"}


def test_the_interval_covers_the_truth():
    """Two noisy readings of one truth, 300 prompts × 2 pairs; the truth of AC1 is that of a very large sample."""
    rng = np.random.default_rng(0)
    options = np.array([0.0, 0.5, 1.0])

    def readings(num_prompts):
        truth = rng.choice(options, size=num_prompts, p=[0.2, 0.2, 0.6])
        noise = rng.choice(options, size=(2, num_prompts))
        return np.where(rng.random((2, num_prompts)) < 0.75, truth, noise)

    large = readings(400_000)
    counts = np.zeros((3, 3))
    np.add.at(counts, tuple((large * 2).astype(int)), 1.0)
    true_value, covered = float(ac1(counts)), 0
    for run in range(200):
        rows = readings(100)
        (row,) = judge_agreement({"x": verdicts(rows[0]), "y": verdicts(rows[1])}, seed=run, num_bootstrap=200)
        covered += row["low"] <= true_value <= row["high"]
    assert 180 <= covered <= 198  # of 200; 95 % are 190 ± 3.1


def test_faulty_preferences_are_refused():
    with pytest.raises(DataError, match="1.5"):
        agreement(verdicts([1.5]), verdicts([1]))


def test_one_prompt_has_no_interval():
    def of(*preferences):
        pairs = (("round_1", "base"), ("round_2", "base"))
        return {pair: [{"prompt_id": "p", "preference": p}] for pair, p in zip(pairs, preferences, strict=True)}

    row = agreement(of(1, 1), of(1, 0))  # they agree on one of two pairs, all of one prompt
    assert (row["num_pairs"], row["agreement"], row["low"], row["high"]) == (2, 0.5, None, None)


def test_an_interval_that_bca_does_not_find_is_none():
    # every resample gives the same AC1, though the judges agree on one of two pairs of each prompt
    other = ("round_2", "base")
    row = agreement(verdicts([1] * 4) | verdicts([1] * 4, other), verdicts([1] * 4) | verdicts([0] * 4, other))
    assert (row["agreement"], row["low"], row["high"]) == (0.5, None, None)
