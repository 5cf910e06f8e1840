"""Labels: strengths, near-ties, edited answers."""

import pytest

from posttrain.core.formats import check_rows
from reward.errors import RewardError
from reward.preferences import label, rankings_to_pairs, strength_of

GAPS = (0.6, 0.4, 0.2, 0.05)


def row(prompt, index, score, text=None, **columns):
    return {
        "prompt_id": prompt,
        "sample_index": index,
        "prompt": [{"role": "user", "content": f"question {prompt}"}],
        "completion": [{"role": "assistant", "content": f"answer {index}" if text is None else text}],
        "score": score,
        **columns,
    }


@pytest.mark.parametrize(
    "gap, name",
    [(0.6, "significantly_better"), (0.59, "better"), (0.4, "better"), (0.2, "slightly_better"),
     (0.05, "marginally_better"), (0.04, None), (0.0, None)],
)  # fmt: skip
def test_a_gap_has_the_strength_of_the_threshold_it_reaches(gap, name):
    assert strength_of(gap, GAPS) == name


def test_no_gap_is_a_tie_even_where_the_last_threshold_is_zero():
    assert strength_of(0.0, (3, 2, 1, 0)) is None
    assert strength_of(0.1, (3, 2, 1, 0)) == "marginally_better"


def test_a_clear_pair_becomes_a_ranking_and_a_preference():
    labels = label([row("p", 0, 0.1, source="seed"), row("p", 1, 0.9, source="seed")], GAPS)
    (ranking,) = labels.rankings
    assert [c[0]["content"] for c in ranking["completions"]] == ["answer 1", "answer 0"]
    assert ranking["scores"] == [0.9, 0.1] and ranking["strengths"] == ["significantly_better"]
    (pair,) = labels.preferences
    assert pair["chosen"][0]["content"] == "answer 1" and pair["rejected"][0]["content"] == "answer 0"
    assert pair["strength"] == "significantly_better" and pair["source"] == "seed" and pair["prompt_id"] == "p"
    assert "sample_index" not in pair
    check_rows(labels.rankings, "ranking", "here")
    check_rows(labels.preferences, "preference", "here")


def test_near_ties_weak_preferences_and_equal_texts_are_left_out_and_counted():
    rows = [row("tie", 0, 0.50), row("tie", 1, 0.52), row("weak", 0, 0.5), row("weak", 1, 0.75),
            row("same", 0, 1.0, "a  b"), row("same", 1, 0.0, "a b"),
            row("good", 0, 1.0), row("good", 1, 0.0)]  # fmt: skip
    labels = label(rows, GAPS)
    assert [pair["prompt_id"] for pair in labels.preferences] == ["good"]
    assert labels.summary["pairs_left_out"] == {"near_tie": 1, "weaker_than_better": 1, "same_text": 1}
    assert labels.summary["drop_reasons"] == {"not_in_a_pair": 6}
    assert len(label(rows, GAPS, min_strength="marginally_better").preferences) == 2


def test_edited_before_chosen_before_rejected():
    labels = label([row("p", 0, 0.0), row("p", 1, 0.5)], GAPS, edited={"p": "perfect", "q": "unused"})
    (ranking,) = labels.rankings
    assert [c[0]["content"] for c in ranking["completions"]] == ["perfect", "answer 1", "answer 0"]
    assert ranking["edited"] is True and ranking["scores"] == [None, 0.5, 0.0]
    pairs = [(p["chosen"][0]["content"], p["rejected"][0]["content"], p["strength"]) for p in labels.preferences]
    assert pairs == [("perfect", "answer 1", "significantly_better"), ("perfect", "answer 0", "significantly_better"),
                     ("answer 1", "answer 0", "better")]  # fmt: skip
    assert [p["chosen_edited"] for p in labels.preferences] == [True, True, False]


def test_an_edit_is_used_where_all_samples_are_equally_poor():
    labels = label([row("p", 0, 0.0), row("p", 1, 0.0)], GAPS, edited={"p": "perfect"})
    (pair,) = labels.preferences
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == ("perfect", "answer 0")


def test_an_edit_that_changed_nothing_is_no_edit():
    labels = label([row("p", 0, 0.0), row("p", 1, 1.0)], GAPS, edited={"p": " answer  1"})
    assert len(labels.preferences) == 1 and labels.summary["edited"] == 0


def test_a_truncated_answer_is_rejected_at_most():
    cut_best = [row("p", 0, 1.0, finish_reason="length"), row("p", 1, 0.0)]
    assert label(cut_best, GAPS).preferences == []
    cut_worst = [row("p", 0, 1.0), row("p", 1, 0.0, finish_reason="length")]
    assert len(label(cut_worst, GAPS).preferences) == 1
    assert label(cut_worst, GAPS, truncated_rejected=False).preferences == []


def test_an_empty_answer_is_not_compared():
    labels = label([row("p", 0, 1.0), row("p", 1, 0.0, "  ")], GAPS)
    assert labels.preferences == [] and labels.summary["drop_reasons"]["empty"] == 1


def test_every_answer_is_drawn_before_one_is_drawn_again_and_two_models_meet_first():
    rows = [row("p", i, float(i), model=m) for m in ("a", "b") for i in range(2)]
    for offset, this in enumerate(rows):
        this["score"] = float(offset)
        this["completion"] = [{"role": "assistant", "content": f"text {offset}"}]
    labels = label(rows, GAPS, num_pairs=2, seed=4)
    drawn = [set(zip(r["sample_indices"], r["models"], strict=True)) for r in labels.rankings]
    assert len(drawn[0] | drawn[1]) == 4
    assert all({model for _, model in pair} == {"a", "b"} for pair in drawn)
    sides = [
        [(pair[f"{side}_sample_index"], pair[f"{side}_model"]) for side in ("chosen", "rejected")]
        for pair in labels.preferences
    ]
    assert sides == [list(zip(r["sample_indices"], r["models"], strict=True)) for r in labels.rankings]


def test_a_row_that_a_verifier_failed_on_is_dropped_with_its_error():
    labels = label([row("p", 0, None, error="timeout: no answer in 1 s"), row("p", 1, 1.0), row("p", 2, 0.0)], GAPS)
    assert len(labels.preferences) == 1 and labels.summary["drop_reasons"] == {"timeout": 1}


def test_rankings_of_people_have_no_strength():
    ranking = {"prompt": [{"role": "user", "content": "q"}], "prompt_id": "x",
               "completions": [[{"role": "assistant", "content": c}] for c in "abc"]}  # fmt: skip
    pairs = rankings_to_pairs([ranking])
    assert [(p["chosen_rank"], p["rejected_rank"]) for p in pairs] == [(0, 1), (0, 2), (1, 2)]
    assert all("strength" not in p and p["prompt_id"] == "x" for p in pairs)
    assert all(p["chosen_sample_index"] is None and p["rejected_model"] is None for p in pairs)


@pytest.mark.parametrize("gaps", [(0.1, 0.2, 0.3, 0.4), (1, 1, 1), (0.4, 0.3, 0.2, -0.1)])
def test_gaps_that_do_not_fall_are_refused(gaps):
    with pytest.raises(RewardError, match="four gaps"):
        label([row("p", 0, 1.0)], gaps)
