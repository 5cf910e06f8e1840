"""What choosing among K samples gave, and rows of the samples browser."""

from __future__ import annotations

import itertools

import pytest

from posttrain.report.browsed import held_out_rows, sample_rows
from posttrain.report.choices import best_of_k_curve, expected_worth, gold_curves

PROMPT = [{"role": "user", "content": "say one"}]


def row(index, score, prompt="p", text=None, **more):
    completion = [{"role": "assistant", "content": text or f"{score}"}]
    sample = {"prompt_id": prompt, "sample_index": index, "prompt": PROMPT, "completion": completion, "score": score}
    return sample | more


def test_samples_stand_best_first_and_a_score_of_zero_is_a_score():
    rows = [row(index, score) for index, score in enumerate([-1.0, None, 0.0, 2.0])]
    (browsed,) = sample_rows(1, rows, [])
    assert [sample["text"] for sample in browsed["completions"]] == ["2.0", "0.0", "-1.0", "None"]


def test_gold_scores_stand_beside_the_samples_of_their_model():
    rows = [row(0, 1.0, model="policy"), row(0, 2.0, model="teacher")]
    (browsed,) = sample_rows(1, rows, [], {("p", 0, "policy"): 0.5, ("p", 0, "teacher"): 1.0})
    assert [(sample["score"], sample["gold"]) for sample in browsed["completions"]] == [(2.0, 1.0), (1.0, 0.5)]


def test_equal_answers_are_shown_once_and_counted():
    rows = [row(0, 1.0, text="yes"), row(1, 2.0, text="no"), row(2, 1.0, text="yes")]
    (browsed,) = sample_rows(1, rows, [])
    assert [(sample["text"], sample["count"]) for sample in browsed["completions"]] == [("no", 1), ("yes", 2)]


@pytest.mark.parametrize(
    ("gold", "verdict"),
    [({0: 1.0, 1: 0.2}, "pair, best chosen"), ({0: 0.2, 1: 1.0}, "pair, better passed over"), ({0: 1.0}, "pair")],
)
def test_the_gold_score_says_whether_the_best_was_chosen(gold, verdict):
    rows = [row(0, 2.0, text="yes"), row(1, 1.0, text="no")]
    pair = {"prompt_id": "p", "chosen": rows[0]["completion"], "rejected": rows[1]["completion"]}
    (browsed,) = sample_rows(1, rows, [pair], {("p", index, None): value for index, value in gold.items()})
    assert (browsed["verdict"], browsed["chosen"], browsed["rejected"]) == (verdict, 0, 1)
    (unpaired,) = sample_rows(1, rows, [])
    assert unpaired["verdict"] == "no pair"


# ------------------------------------------------------------------ best of K


def test_best_of_k_worked_by_hand():
    # scores 1, 2, 4: one of three 7/3; the best of two of (1,2), (1,4), (2,4): (2 + 4 + 4) / 3
    rows = [row(index, score) for index, score in enumerate([4.0, 1.0, 2.0])]
    assert best_of_k_curve(rows) == pytest.approx({1: 7 / 3, 2: 10 / 3})


def test_prompts_with_fewer_samples_are_left_out():
    rows = [row(0, 1.0), row(1, 3.0), row(0, 100.0, prompt="short")]
    assert best_of_k_curve(rows) == {1: 2.0, 2: 3.0}


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_the_expected_worth_is_the_mean_over_all_draws(k):
    samples = [(0.3, 1.0), (0.9, 0.0), (0.5, 0.4), (0.5, 0.8), (-2.0, 0.1)]

    def worth(drawn):
        best = max(score for score, _ in drawn)
        picked = [gold for score, gold in drawn if score == best]  # of equal scores any may be picked
        return sum(picked) / len(picked)

    draws = list(itertools.combinations(samples, k))
    assert expected_worth(samples, k) == pytest.approx(sum(map(worth, draws)) / len(draws))


def test_the_pick_of_a_reward_model_that_errs_falls_short_of_the_oracle():
    # the reward model likes the worthless sample best: of both it picks that one
    rows = [row(0, 5.0), row(1, 1.0)]
    curves = gold_curves(rows, {("p", 0, None): 0.0, ("p", 1, None): 1.0})
    assert curves == {"picked": {1: 0.5, 2: 0.0}, "oracle": {1: 0.5, 2: 1.0}, "num_prompts": 1}


def test_without_gold_scores_there_are_no_gold_curves():
    assert gold_curves([row(0, 5.0), row(1, 1.0)], {}) is None
    assert gold_curves([], {("p", 0, None): 1.0}) is None


# ------------------------------------------------------------------ held-out answers


def test_held_out_answers_stand_side_by_side_with_the_mean_verdict():
    a = [row(0, 1.0, "p", "yes"), row(1, 0.0, "p", "no"), row(0, 1.0, "q", "one"), row(0, 1.0, "only a")]
    b = [row(0, 0.2, "q", "two"), row(0, 0.1, "p", "well")]
    verdicts = [{"prompt_id": "p", "preference": value} for value in (1.0, 0.5, None)]
    verdicts.append({"prompt_id": "q", "preference": None})
    first, second = held_out_rows(2, ("round_2", "base"), a, b, verdicts)
    assert (first["prompt_id"], first["verdict"], first["round"]) == ("p", "win", 2)  # (1 + 0.5) / 2 > 0.5
    answers = [(c["text"], c["model"], c["side"]) for c in first["completions"]]
    assert answers == [("yes", "round_2", "a"), ("no", "round_2", "a"), ("well", "base", "b")]
    assert (second["prompt_id"], second["verdict"]) == ("q", "unreadable")
