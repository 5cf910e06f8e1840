"""lm-evaluation-harness on a checkpoint, offline: its numbers against arithmetic with our own model loading."""

import functools
import json
import shutil
import socket

import pytest
import torch

from posttrain.cli import main
from posttrain.core.chat import load_tokenizer
from posttrain.core.errors import DataError
from posttrain.core.models import load_causal_lm
from posttrain.evaluate import harness
from posttrain.evaluate.harness import HarnessJob, merge_rows, run_harness
from posttrain.model_names import reference_of
from posttrain.report.collect import collect
from posttrain.report.drift import harness_section
from posttrain.report.model_card import model_card
from posttrain.runs import find_run

DOCUMENTS = [
    {"question": "what is red ?", "choices": ["red", "green dog"], "gold": 0},
    {"question": "say the first word :", "choices": ["blue", "cat", "one two"], "gold": 2},
    {"question": "list three numbers", "choices": ["one two three", "dog"], "gold": 1},
    {"question": "is water good ?", "choices": ["yes", "no"], "gold": 0},
]

TASK = """
task: tiny_colors
dataset_path: json
dataset_kwargs:
  data_files: {{test: {path}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 3}}
"""


@pytest.fixture
def tasks(tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in DOCUMENTS))
    (folder / "tiny_colors.yaml").write_text(TASK.format(path=folder / "documents.jsonl"))
    return folder


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No name is looked up and no address is connected to; data sets are made in a cache of their own."""
    pytest.importorskip("lm_eval", reason="the extra is not installed: pip install 'posttrain[harness]'")
    import datasets

    called = []
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, lambda self, address: called.append(address) or (_ for _ in ()).throw(
            OSError("no network in this test")))  # fmt: skip
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: called.append(args) or [])
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    yield called
    assert called == []


@pytest.fixture
def small_run(tmp_path):
    """A run's folder of two rounds, whose best is the second; every model is the one given."""

    def make(model_dir):
        copy = tmp_path / "round_2"
        shutil.copytree(model_dir, copy)
        paths = {"base/model": model_dir, "round_1/policy": model_dir, "round_2/policy": copy, "best": copy}
        record = {
            "recipe": "small",
            "state": "finished",
            "stages": [],
            "planned": [],
            "names": {label: {"reference": f"dpo/{path.name}", "path": str(path)} for label, path in paths.items()},
        }
        folder = tmp_path / "runs" / "small"
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(record))
        evaluate = {"judge": {"kind": "verifier"}}
        recipe = {"name": "small", "num_rounds": 2, "students": [], "seed": 0, "evaluate": evaluate}
        (folder / "recipe.resolved.json").write_text(json.dumps(recipe))
        return tmp_path, "small"

    return make


def choice_logprobs(model_dir, document):
    """The summed log-prob of each choice's tokens after the question, in float64 from the logits."""
    model, tokenizer = load_causal_lm(model_dir), load_tokenizer(model_dir)
    totals = []
    for choice in document["choices"]:
        prompt = tokenizer(document["question"])["input_ids"]
        ids = tokenizer(f"{document['question']} {choice}")["input_ids"]
        assert ids[: len(prompt)] == prompt
        with torch.no_grad():
            logprobs_TV = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        totals.append(sum(float(logprobs_TV[at - 1, ids[at]]) for at in range(len(prompt), len(ids))))
    return totals


def test_its_numbers_are_those_of_our_own_arithmetic(tiny_model_dir, tasks, offline):
    by_sum = by_length = 0
    for document in DOCUMENTS:
        totals = choice_logprobs(tiny_model_dir, document)
        per_character = [total / len(choice) for total, choice in zip(totals, document["choices"], strict=True)]
        by_sum += totals.index(max(totals)) == document["gold"]
        by_length += per_character.index(max(per_character)) == document["gold"]
    assert 0 < by_sum < 4  # else any constant would pass
    rows = run_harness(tiny_model_dir, "tiny", HarnessJob(["tiny_colors"], tasks))
    values = {row["metric"]: row["value"] for row in rows}
    assert values == {"acc": by_sum / 4, "acc_norm": by_length / 4}
    p = by_sum / 4
    (row,) = (row for row in rows if row["metric"] == "acc")
    assert row["stderr"] == pytest.approx((p * (1 - p) / 3) ** 0.5)  # standard error of a mean, n − 1 below
    assert {key: row[key] for key in ("model", "task", "num_documents", "num_fewshot", "limit", "version")} == {
        "model": "tiny", "task": "tiny_colors", "num_documents": 4, "num_fewshot": 0, "limit": None, "version": "3"
    }  # fmt: skip


def test_the_command_writes_a_file_and_a_table(tiny_model_dir, tasks, offline, tmp_path, capsys):
    command = ["evaluate", "--model", str(tiny_model_dir), "--harness", "tiny_colors", "--include-path", str(tasks)]
    out = ["--out", str(tmp_path / "out")]
    assert main([*command, *out, "--limit", "2"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split() == ["model", "task", "metric", "value", "stderr", "documents", "cut"]
    rows = json.loads((tmp_path / "out" / "harness.json").read_text())
    assert [(row["metric"], row["num_documents"], row["limit"]) for row in rows] == [("acc", 2, 2), ("acc_norm", 2, 2)]
    for _ in range(2):  # all documents stand beside the first two; the same question again takes its own place
        assert main([*command, *out, "--json"]) == 0
        again = json.loads(capsys.readouterr().out)
        assert rows + again == json.loads((tmp_path / "out" / "harness.json").read_text()) and len(again) == 2
    asked = {"artifact": None, "chat_template": False, "dtype": "float32", "seed": 0, "num_fewshot": 0, "limit": None}
    assert all(asked.items() <= row.items() for row in again)


def test_numbers_stand_beside_the_win_rates_of_a_run(tiny_model_dir, tasks, offline, small_run, capsys):
    """`best` is round 2 here: the row carries the name that the report's other tables use."""
    root, name = small_run(tiny_model_dir)
    command = ["evaluate", "--run", name, "--root", str(root), "--harness", "tiny_colors", "--include-path", str(tasks)]
    for model in ("base", "best"):
        assert main([*command, "--model", model, "--json"]) == 0
        capsys.readouterr()
    assert main([*command, "--model", "round_9"]) == 1
    assert "it has: best, base, round_1" in capsys.readouterr().err
    shown = collect(find_run(name, root))["harness"]
    assert [(row["model"], row["metric"]) for row in shown] == [
        ("base", "acc"), ("base", "acc_norm"), ("round_2", "acc"), ("round_2", "acc_norm")
    ]  # fmt: skip
    assert [row["artifact"] for row in shown[1:3]] == [f"dpo/{tiny_model_dir.name}", "dpo/round_2"]


def test_numbers_of_a_replaced_checkpoint_are_no_longer_shown_under_its_name(small_run, tiny_model_dir):
    """The recipe was changed and run again: round_2 is another model, the base is not."""
    root, name = small_run(tiny_model_dir)
    found = find_run(name, root)
    shared = {"task": "t", "metric": "acc", "stderr": None}
    rows = [
        {"model": model, "artifact": reference_of(found, model), "value": value, **shared}
        for model, value in (("base", 0.25), ("round_2", 0.75))
    ]
    (found.folder / "harness.json").write_text(json.dumps(rows))
    assert collect(found)["harness"] == rows and collect(found)["harness_left_out"] == 0
    record = json.loads((found.folder / "run.json").read_text())
    record["names"]["round_2/policy"]["reference"] = "dpo/new"
    (found.folder / "run.json").write_text(json.dumps(record))
    told = collect(find_run(name, root))
    assert told["harness"] == rows[:1] and told["harness_left_out"] == 1
    warning, table = harness_section(told).blocks
    assert warning.tone == "warning" and "1 numbers are left out" in warning.text and len(table.rows) == 1
    assert "0.750" not in model_card(told | {"rounds": [{"round": 2}]}, "round_2")
    assert "| 0.750 |" in model_card(told | {"rounds": [{"round": 2}], "harness": rows}, "round_2")


def test_unknown_tasks_are_named(tiny_model_dir, tasks, offline, monkeypatch):
    import lm_eval.tasks

    # The harness's own 14,000 tasks take seconds to list.
    alone = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", lambda include_path, **options: alone(include_path=include_path))
    with pytest.raises(DataError, match="no task 'tiny_colour' .near: tiny_colors"):
        harness._find_tasks(HarnessJob(["tiny_colour"], tasks))
    with pytest.raises(DataError, match="is no folder"):
        run_harness(tiny_model_dir, "tiny", HarnessJob(["tiny_colors"], tasks / "nowhere"))


def test_data_that_is_not_there_is_one_message(tiny_model_dir, tasks, offline):
    (tasks / "documents.jsonl").unlink()
    with pytest.raises(DataError, match="the harness cannot run tiny_colors: FileNotFoundError"):
        run_harness(tiny_model_dir, "tiny", HarnessJob(["tiny_colors"], tasks))


def test_without_the_extra_one_message_says_what_to_install(monkeypatch, tiny_model_dir, tmp_path, capsys):
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    assert main(["evaluate", "--model", str(tiny_model_dir), "--harness", "x", "--out", str(tmp_path / "out")]) == 1
    assert "pip install 'posttrain[harness]'" in capsys.readouterr().err


def test_new_rows_take_the_place_of_those_on_the_same_model_and_task():
    def row(model, task, value, **more):
        return {"model": model, "task": task, "metric": "acc", "value": value, **more}

    old = [row("a", "t", 1), row("a", "u", 2), row("b", "t", 3)]
    assert merge_rows(old, [row("a", "t", 4)]) == [row("a", "u", 2), row("b", "t", 3), row("a", "t", 4)]
    for other in (
        *({"artifact": "dpo/1"}, {"chat_template": True}, {"dtype": "bfloat16"}, {"seed": 1}),
        *({"num_fewshot": 5}, {"limit": 10}),
    ):  # another checkpoint, or another question
        assert merge_rows(old, [row("a", "t", 4, **other)]) == [*old, row("a", "t", 4, **other)]
