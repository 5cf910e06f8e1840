"""A model of a run by every name that it has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from posttrain.core.errors import DataError
from posttrain.lineage.graph import Graph
from posttrain.model_names import find_answers, find_model, find_weights, model_names
from posttrain.notes import notes
from posttrain.report.export import export_model
from posttrain.runs import Run, find_run

WEIGHTS = {
    "base/model": "folder/1",
    "round_1/sft": "sft/1",
    "round_1/dpo": "dpo/1",
    "round_1/policy": "dpo/1",
    "round_1/reward_model": "reward_model/1",
    "round_2/sft": "sft/2",
    "round_2/policy": "sft/2",  # no DPO
    "best": "sft/2",
    "students/small/base": "folder/1",
    "students/small/policy": "sft/3",
    "students/large/base": "folder/2",
    "students/large/policy": "sft/4",
    "teacher": "folder/3",
    "students/teacher/eval/completions": "sample/9",
    "round_2/eval/completions": "sample/2",
}


@pytest.fixture
def run(tmp_path: Path, tiny_model_dir: Path) -> Run:
    """A run whose models are all the tiny one, each in a folder of its own."""
    names = {}
    for label, reference in WEIGHTS.items():
        names[label] = {"reference": reference, "path": str(tmp_path / reference)}
        shutil.copytree(tiny_model_dir, tmp_path / reference, dirs_exist_ok=True)
    planned = [{"label": "round_3/sft", "stage": "sft", "address": "5", "status": "run"}]
    record = {"recipe": "r", "state": "finished", "stages": [], "planned": planned, "names": names}
    folder = tmp_path / "runs" / "r"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record))
    students = [{"name": "small"}, {"name": "large"}]
    judges = {"judge": {"kind": "verifier"}, "judges": {"people": {"kind": "labels"}}}
    recipe = {"name": "r", "num_rounds": 2, "students": students, "seed": 0, "evaluate": judges}
    (folder / "recipe.resolved.json").write_text(json.dumps(recipe))
    return find_run("r", tmp_path)


@pytest.mark.parametrize(
    ("typed", "name", "weights"),
    [
        ("base", "base", "base/model"),
        ("round_1", "round_1", "round_1/policy"),
        ("round_1/sft", "round_1/sft", "round_1/sft"),
        ("round_2/sft", "round_2", "round_2/policy"),
        ("best", "round_2", "round_2/policy"),
        ("small", "students/small", "students/small/policy"),
        ("students/small", "students/small", "students/small/policy"),
        ("students/small/own_base", "base", "base/model"),
        ("students/large/own_base", "students/large/own_base", "students/large/base"),
        ("teacher", "teacher", "teacher"),
        ("students/teacher", "teacher", "teacher"),
    ],
)
def test_every_command_knows_a_model_by_the_same_names(run, tmp_path, monkeypatch, typed, name, weights):
    monkeypatch.setattr("posttrain.report.collect._began", lambda found, number: True)  # no stage has a manifest here
    model, artifact = find_weights(run, typed)
    assert (model.name, model.weights, artifact.reference) == (name, weights, WEIGHTS[weights])
    assert Graph(run).model_named(typed) == WEIGHTS[weights]
    assert (export_model(run, typed, tmp_path / "out") / "config.json").is_file()


def test_answers_stand_where_the_run_put_them(run):
    assert [find_answers(run, typed)[1].reference for typed in ("best", "round_2/sft", "students/teacher")] == [
        "sample/2", "sample/2", "sample/9"
    ]  # fmt: skip
    with pytest.raises(DataError, match="no held-out answers of a model 'small'; it has: round_2, teacher"):
        find_answers(run, "small")


def test_errors_list_the_names(run):
    there = "best, base, round_1, round_1/sft, round_2, round_2/sft, students/small, students/small/own_base"
    with pytest.raises(DataError, match=f"run r has no model 'round_9'; it has: {there}"):
        find_model(run, "round_9")
    with pytest.raises(DataError, match=f"it has: {there}.*, teacher, round_1/reward_model"):
        Graph(run).model_named("round_9")
    with pytest.raises(DataError, match="no weights of model 'round_3': .* it has those of: base, round_1"):
        find_weights(run, "round_3")
    assert model_names(run)[5].name == "round_3"  # planned
    assert Graph(run).model_named("round_1/reward_model") == "reward_model/1"


def test_notes_say_what_was_left_out_and_where_there_is_no_interval(run, monkeypatch):
    row = {"judge_a": "gold", "judge_b": "people", "num_pairs": 2, "agreement": 0.5, "ac1": 0.25}
    metrics = {
        "evaluation/agreement": {"agreement": [{**row, "low": None, "high": None}, {**row, "low": 0.0, "high": 0.5}]},
        "evaluation/people/matrix": {"matrix": [], "labels_left_out": {"round_1": 3}},
    }
    monkeypatch.setattr(Run, "metrics", lambda self, label: metrics.get(label))
    assert notes(run) == [
        "judge people: 3 labels are on another round_1 than this run's and are left out.",
        "judges gold and people agree on 50% of 2 comparisons (Gwet's AC1 0.250 without an interval)",
        "judges gold and people agree on 50% of 2 comparisons (Gwet's AC1 0.250 [0.000, 0.500])",
    ]
