"""Every pair of models by one judge."""

from __future__ import annotations

import pytest

from posttrain.core.errors import DataError
from posttrain.evaluate.matrix import (
    judge_pairs,
    matrix_entries,
    matrix_ratings,
    pairs_of,
    verdicts_of_labels,
    verdicts_of_scores,
)
from posttrain.evaluate.pairing import mirrored
from posttrain.evaluate.win_rate import win_rate


def scored(*scores_by_prompt: tuple[float | None, ...], text: str = "word"):
    return [
        {"prompt_id": f"p{number}", "sample_index": index, "completion": text, "score": score}
        for number, scores in enumerate(scores_by_prompt)
        for index, score in enumerate(scores)
    ]


MODELS = {
    "base": scored((0.0, 0.0), (0.0, 1.0), (1.0, 1.0)),
    "round_1": scored((1.0, 1.0), (1.0, 1.0), (0.0, 1.0), text="two words"),
    "round_2": scored((1.0, 1.0), (1.0, 1.0), (1.0, 1.0)),
}


def test_every_pair_is_there_once_with_the_later_model_first():
    assert pairs_of(["base", "round_1", "round_2"]) == [
        ("round_1", "base"),
        ("round_2", "base"),
        ("round_2", "round_1"),
    ]


def test_samples_are_averaged_within_the_prompt():
    entry = matrix_entries(verdicts_of_scores(MODELS))[0]
    # p0: 1 of 1 always wins. p1: round_1 has 1, 1 against 0, 1: two wins and two ties of four, 0.75. p2: 0, 1 against
    # 1, 1: two losses and two ties, 0.25.
    assert (entry["a"], entry["b"], entry["num_pairs"]) == ("round_1", "base", 3)
    assert entry["win_rate"] == pytest.approx((1.0 + 0.75 + 0.25) / 3)
    assert (entry["wins"], entry["ties"], entry["losses"], entry["unreadable"]) == (2, 0, 1, 0)
    assert (entry["mean_length_a"], entry["mean_length_b"]) == (9.0, 4.0)
    assert entry["length_controlled"]["win_rate"] is not None and "flip_rate" not in entry


def test_a_pair_without_a_readable_verdict_has_no_win_rate_and_is_counted():
    verdicts = {("round_1", "base"): [{"prompt_id": "p", "preference": None}] * 2}
    (entry,) = matrix_entries(verdicts)
    assert (entry["win_rate"], entry["num_pairs"], entry["unreadable"]) == (None, 0, 2)
    assert matrix_ratings(verdicts, "base", seed=0, num_bootstrap=50) == []


def test_the_flip_rate_is_the_share_of_readable_verdicts_that_the_order_decided():
    preferences = (1.0, 0.5, 0.0, 0.5, None)
    rows = [{"prompt_id": f"p{n}", "preference": p, "flipped": p == 0.5} for n, p in enumerate(preferences)]
    (entry,) = matrix_entries({("round_1", "base"): rows})
    assert entry["flip_rate"] == 2 / 4 and entry["unreadable"] == 1


def test_ratings_leave_out_models_that_no_chain_links_to_the_base():
    win = [{"prompt_id": "p", "preference": 1.0}]
    verdicts = {("round_1", "base"): win, ("students/b", "students/a"): win}
    assert [row["model"] for row in matrix_ratings(verdicts, "base", seed=0, num_bootstrap=50)] == ["base", "round_1"]


def test_a_mirrored_verdict_gives_the_mirrored_win_rate():
    verdict = {"prompt_id": "p", "preference": 1.0, "verdict": "A", "votes": ["A", "TIE"], "length_a": 3, "length_b": 5}
    turned = mirrored(verdict)
    assert turned == {
        "prompt_id": "p", "preference": 0.0, "verdict": "B", "votes": ["B", "TIE"], "length_a": 5, "length_b": 3,
    }  # fmt: skip
    assert mirrored(turned) == verdict
    assert mirrored({**verdict, "flags": ["hollow_b"]})["flags"] == ["hollow_a"]
    label = {"prompt_id": "p", "preference": None, "a": "x", "b": "y", "model_a": "1", "model_b": "2", "pair_id": "q"}
    assert mirrored(label) == {**label, "a": "y", "b": "x", "model_a": "2", "model_b": "1"}
    rows = [{"prompt_id": f"p{n}", "preference": p} for n, p in enumerate((1.0, 0.5, 1.0, 0.0, None))]
    there, back = win_rate(rows), win_rate([mirrored(row) for row in rows])
    assert back["win_rate"] == 1 - there["win_rate"] and back["low"] == pytest.approx(1 - there["high"], abs=1e-15)


def test_what_the_rounds_have_judged_is_not_judged_again():
    asked = []

    def compare(a, b):
        asked.append((len(a), len(b)))
        return [{"prompt_id": row["prompt_id"], "preference": 1.0} for row in a]

    known = {("base", "round_1"): [{"prompt_id": "p0", "preference": 0.0, "length_a": 1, "length_b": 2}]}
    found = dict(judge_pairs(MODELS, compare, known, wanted={"p0", "p2"}.__contains__))
    assert asked == [(4, 4), (4, 4)]  # round_2 against both, two samples of the two prompts that are wanted
    assert found["round_1", "base"] == [{"prompt_id": "p0", "preference": 1.0, "length_a": 2, "length_b": 1}]
    assert list(found) == pairs_of(list(MODELS))


def test_labels_are_turned_so_that_the_later_model_comes_first():
    labels = [
        {"prompt_id": "p0", "a": "base", "b": "round_1", "preference": 0.0, "person": "one"},
        {"prompt_id": "p1", "a": "round_1", "b": "base", "preference": 1.0},
        {"prompt_id": "p2", "a": "base", "b": "round_1", "preference": None},
    ]
    verdicts, _ = verdicts_of_labels(dict(enumerate(labels, start=1)), MODELS, "labels.jsonl")
    assert list(verdicts) == [("round_1", "base")]
    assert [row["preference"] for row in verdicts["round_1", "base"]] == [1.0, 1.0, None]
    assert verdicts["round_1", "base"][0]["person"] == "one"
    assert {(row["length_a"], row["length_b"]) for row in verdicts["round_1", "base"]} == {(9.0, 4.0)}


def test_labels_of_other_models_or_prompts_are_all_named():
    labels = [
        {"prompt_id": "p0", "a": "round_9", "b": "base", "preference": 1.0},
        {"prompt_id": "elsewhere", "a": "round_1", "b": "base", "preference": 1.0},
        {"prompt_id": "p0", "a": "base", "b": "base", "preference": 1.0},
    ]
    with pytest.raises(DataError) as error:
        verdicts_of_labels(dict(enumerate(labels, start=1)), MODELS, "labels.jsonl")
    for part in ("labels.jsonl: 3 faults", "no model called round_9", "'elsewhere' is no held-out", "both base"):
        assert part in str(error.value)


def test_labels_on_a_model_that_was_trained_anew_are_left_out_and_counted(caplog):
    models = {name: [{**row, "model": f"{name} now"} for row in rows] for name, rows in MODELS.items()}
    label = {"prompt_id": "p0", "a": "base", "b": "round_1", "preference": 0.0, "length_a": 7, "length_b": 8}
    labels = [
        {**label, "model_a": "base now", "model_b": "round_1 now"},
        {**label, "model_a": "base now", "model_b": "round_1 before"},
        {**label, "a": "round_1", "b": "base", "model_a": "round_1 before", "model_b": "base now"},
        {**label, "model_a": "base before", "model_b": "round_1 before"},
        {"prompt_id": "p1", "a": "round_2", "b": "base", "preference": 1.0},  # by hand: nothing is said of content
    ]
    verdicts, left_out = verdicts_of_labels(dict(enumerate(labels, start=1)), models, "labels.jsonl")
    # lengths of the samples that were read, turned with the label: 8 of round_1, 7 of base
    (row,) = verdicts["round_1", "base"]
    assert (row["preference"], row["length_a"], row["length_b"]) == (1.0, 8, 7)
    assert len(verdicts["round_2", "base"]) == 1
    assert left_out == {"round_1": 2, "base and round_1": 1}
    assert "labels.jsonl: 2 labels are on another round_1 than this run's and are left out" in caplog.text
