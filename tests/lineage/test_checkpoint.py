"""What trained a checkpoint, counted on a run made by hand (made_run.py)."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from posttrain.core.errors import DataError
from posttrain.lineage.checkpoint import tell_checkpoint
from posttrain.lineage.told import checkpoint_lines
from posttrain.lineage.training_rows import write_training_rows


def counted(told: dict) -> dict[tuple, int]:
    keys = ("stage", "role", "round", "source", "written_by")
    return {tuple(row[key] for key in keys): row["answers"] for row in told["counts"]}


def test_counts_by_stage_round_source_and_writer(graph):
    """SFT of round 2: two prompts of round 1 by the base, one of round 2 by round 1's policy; DPO: round 2's pair."""
    told = tell_checkpoint(graph, "round_2")
    assert told["weights"] == ["round_2", "round_2/sft", "base"]
    assert counted(told) == {
        ("dpo", "chosen", 2, "self_instruct", "round_1"): 1,
        ("dpo", "rejected", 2, "self_instruct", "round_1"): 1,
        ("sft", "sft", 1, "self_instruct", "base"): 2,
        ("sft", "sft", 2, "self_instruct", "round_1"): 1,
    }
    assert [(entry["label"], entry["rows"], entry["answers"]) for entry in told["trained"]] == [
        ("round_2/dpo", 1, 2),
        ("round_2/sft", 3, 3),
    ]
    assert told["total"] == {"rows": 4, "answers": 5}


def test_models_that_wrote_or_scored_its_data_are_said_apart(graph):
    told = tell_checkpoint(graph, "round_2")
    assert [(entry["model"], entry["rows"]) for entry in told["by_way_of"]] == [
        ("round_1/sft", 2),
        ("round_1", 2),
        ("round_2/reward_model", 3),
    ]
    did = {entry["model"]: entry["did"] for entry in told["by_way_of"]}
    assert did["round_1"] == ["round_2/prompts/self_instruct_1", "round_2/completions/policy"]
    assert did["round_2/reward_model"] == ["round_2/scores"]


@pytest.mark.parametrize(("name", "rows"), [("base", 0), ("round_1", 4), ("round_1/sft", 2), ("round_2/sft", 3)])
def test_any_model_of_the_run_can_be_asked_for(graph, name, rows):
    assert tell_checkpoint(graph, name)["total"]["rows"] == rows


def test_a_reward_model_was_trained_on_pairs_with_an_edited_answer(graph):
    told = tell_checkpoint(graph, "round_2/reward_model")
    # edited > better, edited > worse, better > worse
    assert counted(told) == {
        ("reward_model", "edited", 2, "self_instruct", "edited"): 2,
        ("reward_model", "chosen", 2, "self_instruct", "round_1"): 1,
        ("reward_model", "rejected", 2, "self_instruct", "round_1"): 3,
    }


def test_unknown_model_lists_those_that_are_there(graph):
    there = "base, round_1, round_1/sft, round_2, round_2/sft, round_1/reward_model, round_2/reward_model"
    with pytest.raises(DataError, match=f"has no model 'round_3'; it has: {there}"):
        tell_checkpoint(graph, "round_3")


def test_table_for_a_person(graph):
    lines = checkpoint_lines(tell_checkpoint(graph, "round_2"))
    assert "  in its weights: round_2 ← round_2/sft ← base" in lines
    assert "  sft    sft           1  self_instruct  base              2" in lines
    assert "  no row of run made trained it" in checkpoint_lines(tell_checkpoint(graph, "base"))


def test_parquet_has_a_row_per_answer(graph, tmp_path):
    out = tmp_path / "rows.parquet"
    assert write_training_rows(graph, "round_2", out, with_text=False) == 5
    rows = pq.read_table(out).to_pylist()
    assert [(row["stage"], row["role"], row["prompt_id"], row["sample_index"], row["score"]) for row in rows] == [
        ("dpo", "chosen", "bbbbbb01", 1, 3.0),
        ("dpo", "rejected", "bbbbbb01", 0, 1.0),
        ("sft", "sft", "aaaaaa01", 1, 3.0),
        ("sft", "sft", "aaaaaa02", 1, 3.0),
        ("sft", "sft", "bbbbbb01", 1, 3.0),
    ]
    assert [(row["round"], row["written_by"], row["trained"], row["file"]) for row in rows[1:3]] == [
        (2, "round_1", "round_2/dpo", "round_2/select"),
        (1, "base", "round_2/sft", "round_1/select"),
    ]
    assert "completion" not in rows[0]


def test_parquet_with_texts_has_each_answer_beside_its_prompt(graph, tmp_path):
    out = tmp_path / "rows.parquet"
    write_training_rows(graph, "round_2", out, with_text=True)
    texts = [
        (json.loads(row["prompt"])[0]["content"], json.loads(row["completion"])[0]["content"])
        for row in pq.read_table(out).to_pylist()
    ]
    assert texts == [
        ("bbbbbb01", "bbbbbb01 1"),
        ("bbbbbb01", "bbbbbb01 0"),
        ("aaaaaa01", "aaaaaa01 1"),
        ("aaaaaa02", "aaaaaa02 1"),
        ("bbbbbb01", "bbbbbb01 1"),
    ]


def test_an_edited_answer_has_neither_sample_nor_model(graph, tmp_path):
    out = tmp_path / "rows.parquet"
    assert write_training_rows(graph, "round_2/reward_model", out, with_text=True) == 6  # three pairs
    rows = pq.read_table(out).to_pylist()
    edited = [row for row in rows if row["role"] == "edited"]
    assert [(row["sample_index"], row["model"], row["written_by"], row["score"]) for row in edited] == [
        (None, None, "edited", None)
    ] * 2
    assert {json.loads(row["completion"])[0]["content"] for row in edited} == {"better"}
    assert {row["model"] for row in rows if row["role"] != "edited"} == {"hash-one"}


def test_parquet_needs_rows_and_an_ending(graph, tmp_path):
    with pytest.raises(DataError, match="no row of run made trained base"):
        write_training_rows(graph, "base", tmp_path / "rows.parquet", with_text=False)
    with pytest.raises(DataError, match="ends in .parquet"):
        write_training_rows(graph, "round_2", tmp_path / "rows.jsonl", with_text=False)
    assert list(tmp_path.iterdir()) == []
