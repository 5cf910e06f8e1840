"""Prompts of a round and people's labels: which rows are taken, under which names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.config import Execution, FileAnnotator, PracticePrompts, PromptFile
from posttrain.core.errors import DataError
from posttrain.core.files import read_rows
from posttrain.core.formats import prompt_id
from posttrain.stages import StageCall
from posttrain.steps.annotate import label_file
from posttrain.steps.prompts import own_names, source_prompts


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def answered(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def written(path: Path, *rows: dict) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def held_out(tmp_path):
    """The evaluation prompts of a run; their file numbered its rows."""
    return written(tmp_path / "held_out" / "prompts.jsonl", {"prompt_id": "1", "prompt": said("held out")}).parent


def call(tmp_path, **inputs) -> StageCall:
    out = tmp_path / "out"
    out.mkdir()
    return StageCall(inputs, out, Execution(), None, lambda done, total: None)


def test_a_source_leaves_out_held_out_prompts_by_content_not_by_number(tmp_path, held_out):
    rows = [{"id": "1", "prompt": "mine"}, {"id": "2", "prompt": "held out"}, {"id": "3", "prompt": "more"}]
    source = PromptFile(path=str(written(tmp_path / "mine.jsonl", *rows)))
    stage = call(tmp_path, exclude=[held_out])
    source_prompts(stage, source, "content", seed=0, part=1, num_parts=1)
    kept = {row["prompt_id"]: row["prompt"][0]["content"] for row in read_rows(stage.out / "prompts.jsonl")}
    assert kept == {"1": "mine", "3": "more"}


def test_a_practice_world_too_small_is_told_in_our_words(tmp_path, held_out, monkeypatch):
    monkeypatch.setattr("posttrain.practice.world.PATIENCE", 1)
    monkeypatch.setattr("posttrain.practice.world.draw_prompt", lambda family, rng, language: said("one task"))
    with pytest.raises(DataError, match="ask for fewer"):
        source_prompts(call(tmp_path, exclude=[held_out]), PracticePrompts(num_prompts=9), None, 0, 1, 1)


def test_rows_of_two_files_numbered_alike_get_names_of_their_own():
    rows = [{"prompt_id": "1", "prompt": said("a")}, {"prompt_id": "2", "prompt": said("b")}]
    rows += [{"prompt_id": "2", "prompt": said("c")}]
    named = own_names(rows, taken={"1"})
    assert [row["prompt_id"] for row in named] == [prompt_id(said("a")), "2", prompt_id(said("c"))]
    assert [row["prompt"] for row in named] == [said("a"), said("b"), said("c")]
    assert rows[0]["prompt_id"] == "1"
    assert [row.get("renamed_from") for row in named] == ["1", None, "2"]  # a trace follows them back


def test_what_a_generator_showed_stays_with_what_it_wrote():
    (row,) = own_names([{"prompt_id": "1", "prompt": said("a"), "demonstrations": ["2", "3"]}], taken=set())
    assert row == {"prompt_id": "1", "prompt": said("a")}


def labels(tmp_path: Path, *rows: dict) -> FileAnnotator:
    return FileAnnotator(path=str(written(tmp_path / "labels.jsonl", *rows)))


def pair(text: str, **columns) -> dict:
    return {"prompt": said(text), "chosen": answered("good"), "rejected": answered("bad"), **columns}


def test_peoples_labels_on_held_out_prompts_and_weak_ones_are_left_out(tmp_path, held_out):
    ranking = {"prompt": said("held out"), "completions": [answered("good"), answered("bad")]}
    rows = [pair("mine"), pair("held out"), pair("more", strength="slightly_better"), pair("last", strength=None)]
    stage = call(tmp_path, held_out=held_out)
    summary = label_file(stage, labels(tmp_path, *rows, ranking), "content", round=2, min_strength="better")
    assert summary == {"num_rankings": 0, "num_preferences": 2, "num_left_out": 2}
    kept = read_rows(stage.out / "preferences.jsonl")
    assert [(row["prompt"][0]["content"], row["round"]) for row in kept] == [("mine", 2), ("last", 2)]
    assert [row["prompt_id"] for row in kept] == [prompt_id(said("mine")), prompt_id(said("last"))]
    reasons = [row["drop_reason"] for row in read_rows(stage.out / "dropped.jsonl")]
    assert reasons == ["held_out_prompt", "weaker_than_min_strength"]


def test_a_misspelt_strength_is_no_weak_one(tmp_path, held_out):
    rows = labels(tmp_path, pair("mine"), pair("more", strength="much_better"))
    with pytest.raises(DataError, match="row 2: unknown strength 'much_better'"):
        label_file(call(tmp_path, held_out=held_out), rows, "content", round=1, min_strength="better")
