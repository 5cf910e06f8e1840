"""A row's way, told from a run made by hand (made_run.py)."""

from __future__ import annotations

import pytest

from posttrain.core.errors import DataError
from posttrain.lineage.names import find_row
from posttrain.lineage.story import tell_story
from posttrain.lineage.told import _decision, story_lines


def labels(entries: list[dict]) -> list[str]:
    return [entry["label"] for entry in entries]


def test_origin_names_generator_teacher_template_and_seeds_shown(graph):
    (origin,) = tell_story(graph, "aaaaaa01", None)["written"]
    assert (origin["label"], origin["source"], origin["round"]) == (
        "round_1/prompts/self_instruct_1",
        "self_instruct",
        1,
    )
    assert (origin["teacher"], origin["template"], origin["request"]) == ("base", "practice", 4)
    assert [(item["prompt_id"], item["text"]) for item in origin["shown"]] == [
        ("seed0002", "seed 2"),
        ("seed0001", "seed 1"),
    ]


def test_a_dropped_prompt_says_why_and_of_what_it_is_a_duplicate(graph):
    story = tell_story(graph, "poor00011", None)
    (decision,) = story["cleaning"]
    assert decision["kept"] is False
    assert (decision["drop_reason"], decision["duplicate_of"], decision["similarity"]) == (
        "near_duplicate",
        "aaaaaa01",
        0.75,
    )
    assert story["trained"] == story["by_way_of"] == story["samplings"] == []
    assert tell_story(graph, "poor00021", None)["cleaning"][0]["drop_reason"] == "too_long: 99 > 64"
    assert tell_story(graph, "aaaaaa01", None)["cleaning"][0]["kept"] is True


def test_every_sample_has_its_score_rank_and_decisions(graph):
    (sampling,) = tell_story(graph, "aaaaaa01", None)["samplings"]
    assert (sampling["model"], sampling["scored_by"][0]["by"]) == ("base", "round_1/reward_model")
    assert sampling["selected_by"][0]["selection"] == {"rule": "best_of_k"}
    ranks = {
        item["sample_index"]: (item["scores"][0]["score"], item["scores"][0]["rank"]) for item in sampling["samples"]
    }
    assert ranks == {0: (1.0, 3), 1: (3.0, 1), 2: (2.0, 2)}
    decided = {item["sample_index"]: [entry["decision"] for entry in item["decisions"]] for item in sampling["samples"]}
    assert decided == {0: ["rejected"], 1: ["sft", "chosen"], 2: ["dropped"]}
    chosen = sampling["samples"][1]["decisions"][1]
    assert (chosen["other"], chosen["other_model"], chosen["margin"]) == (0, "base", 2.0)  # 3 over 1
    assert sampling["samples"][2]["decisions"][0]["drop_reason"] == "not_selected"


def test_labels_name_strength_and_an_edited_answer(graph):
    """Of samples scored 0, 1, 2 one pair is drawn; in front of it stands the edited answer."""
    (sampling,) = tell_story(graph, "bbbbbb01", None)["samplings"]
    of_labels = [entry for sample in sampling["samples"] for entry in sample["decisions"] if entry["stage"] == "label"]
    sides = [entry for entry in of_labels if entry["decision"] != "dropped"]
    # Ranking edited > better > worse: two pairs under the edited answer and one between the samples (two sides).
    assert sorted(entry["decision"] for entry in sides) == ["chosen", "rejected", "rejected", "rejected"]
    assert sum(entry.get("other_is_edited", False) for entry in sides) == 2
    assert {entry["strength"] for entry in sides} == {"significantly_better"}  # a gap of 1 or 2, above 0.6
    assert [entry["drop_reason"] for entry in of_labels if entry["decision"] == "dropped"] == ["not_in_a_pair"]


def test_checkpoints_are_told_apart_by_how_the_row_came_to_them(graph):
    """Round 1's row: SFT of both rounds (rows are pooled), DPO of round 1; round 2 saw it by way of these."""
    story = tell_story(graph, "aaaaaa01", None)
    assert {entry["label"]: entry["rows"] for entry in story["trained"]} == {
        "round_1/sft": 1,
        "round_1/dpo": 1,
        "round_2/sft": 1,
    }
    further = {entry["label"]: (entry["how"], entry["from"]) for entry in story["by_way_of"]}
    assert further == {
        "round_2/reward_model": ("data", ["round_1", "round_1/sft"]),  # labels of answers by round 1's policy
        "round_2/dpo": ("weights", ["round_2/sft"]),
    }


def test_a_sample_has_trained_only_where_it_stands(graph):
    trained = {index: labels(tell_story(graph, "aaaaaa01", index)["trained"]) for index in (0, 1, 2)}
    assert trained == {0: ["round_1/dpo"], 1: ["round_1/sft", "round_1/dpo", "round_2/sft"], 2: []}
    (sampling,) = tell_story(graph, "aaaaaa01", 2)["samplings"]
    assert [item["sample_index"] for item in sampling["samples"]] == [2]


def test_rows_of_a_reward_model_are_its_preferences(graph):
    trained = {entry["label"]: entry["rows"] for entry in tell_story(graph, "bbbbbb01", None)["trained"]}
    assert trained == {"round_2/reward_model": 3, "round_2/sft": 1, "round_2/dpo": 1}


def test_a_held_out_prompt_has_verdicts_and_trained_nothing(graph):
    story = tell_story(graph, "heldout1", None)
    told = [(item["label"], item["a"], item["b"], item["preference"], item["judge"]) for item in story["verdicts"]]
    assert told == [
        ("round_1/eval/win_rate_vs_base", "round_1", "base", 1.0, "llm:judge"),
        ("round_2/eval/win_rate_vs_base", "round_2", "base", 1.0, "llm:judge"),
    ]
    assert labels(story["samplings"]) == [
        "base/eval/completions",
        "round_1/eval/completions",
        "round_2/eval/completions",
    ]
    assert story["trained"] == story["by_way_of"] == []
    assert "  no row of it trained a model" in story_lines(story)


def test_text_names_the_other_model_and_an_edited_answer():
    pair = {"decision": "chosen", "other": 2, "other_model": "teacher", "margin": 0.5}
    assert _decision(pair, "base") == "chosen over sample 2 of teacher (margin 0.5)"
    assert _decision(pair, "teacher") == "chosen over sample 2 (margin 0.5)"
    edited = {"decision": "rejected", "other": None, "other_model": None, "strength": "better"}
    assert _decision(edited, "base") == "rejected for an edited answer (strength better)"


def test_text_tells_all_of_it(graph):
    text = "\n".join(story_lines(tell_story(graph, "aaaaaa01", None)))
    for said in (
        *("shown seed0002: seed 2", "teacher base", "template practice", "kept", "rule best_of_k"),
        *("sample 1 · score 3 (rank 1 of 3) · SFT row · chosen over sample 0 (margin 2)", "dropped: not_selected"),
        *("trained on 1 row of it, from round_1/select/sft.jsonl", "goes on from round_2/sft"),
    ):
        assert said in text, said
    dropped = "\n".join(story_lines(tell_story(graph, "poor00011", None)))
    assert "dropped: near_duplicate · duplicate of aaaaaa01 · similarity 0.75" in dropped


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("aaaaaa01", ("aaaaaa01", None)),
        ("aaaaaa01:2", ("aaaaaa01", 2)),
        ("bbbbbb", ("bbbbbb01", None)),
        ("bbbbbb:1", ("bbbbbb01", 1)),
    ],
)
def test_an_id_its_beginning_and_a_sample_are_understood(graph, typed, found):
    assert find_row(graph, typed) == found


def test_what_is_not_one_row_is_refused_with_what_could_be_meant(graph):
    with pytest.raises(DataError, match="several rows begin with 'aaaaaa': aaaaaa01, aaaaaa02; type more"):
        find_row(graph, "aaaaaa")
    with pytest.raises(
        DataError, match="run made has no row 'bbbbb'; nearest: bbbbbb01"
    ):  # five characters are too few
        find_row(graph, "bbbbb")
    with pytest.raises(DataError, match="nearest: aaaaaa01"):
        find_row(graph, "aaaxaa01")
    with pytest.raises(DataError, match="has no row 'zzzzzzzz'; Give a prompt_id"):
        find_row(graph, "zzzzzzzz")
