"""The whole loop on a tiny recipe: run, run again, kill, look at the result with every command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

import pytest

from posttrain.cli import main
from posttrain.core.files import read_rows, sha256_file
from posttrain.core.model_files import check_model_dir
from posttrain.runs import Run, find_run

RECIPE = Path(__file__).parent / "tiny_recipe.yaml"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("loop")
    assert main(["run", str(RECIPE), "--root", str(root)]) == 0
    return find_run("tiny", root)


def statuses(found: Run) -> dict[str, str]:
    return {row["label"]: row["status"] for row in found.record["stages"]}


def results(root: Path) -> dict[str, str]:
    """Return the hash of every file that says what came out; times and paths stand in the others."""
    names = ("*.safetensors", "prompts.jsonl", "completions.jsonl", "scored.jsonl", "sft.jsonl", "pairs.jsonl")
    files = [path for name in names for path in root.glob(f"artifacts/*/[!.]*/{name}")]
    assert len(files) > 40
    return {str(path.relative_to(root)): sha256_file(path) for path in files}


def test_a_second_run_runs_no_stage(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    root = finished.folder.parent.parent
    assert main(["run", str(RECIPE), "--root", str(root)]) == 0
    assert set(statuses(find_run("tiny", root)).values()) == {"hit"}
    printed = capsys.readouterr().out
    assert "0 of " in printed and "round_2" in printed and "report.html" in printed


def test_a_killed_run_goes_on_and_ends_with_the_same_artifacts(finished: Run, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "posttrain.cli", "run", str(RECIPE), "--root", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    kills = 0
    for wanted in (3, 12, 25, 40):  # killed when so many artifacts are there
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        while process.poll() is None and len(list(tmp_path.glob("artifacts/*/[!.]*/manifest.json"))) < wanted:
            time.sleep(0.01)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 3
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("artifacts/*/[!.]*/manifest.json")}
    assert find_run("tiny", tmp_path).state == "interrupted"
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())  # finished stages were not redone
    assert results(tmp_path) == results(finished.folder.parent.parent)


def test_report_json_has_the_shape_of_the_interface(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(finished.folder.parent.parent)
    capsys.readouterr()
    assert main(["report", "tiny", "--root", root, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [entry["round"] for entry in report["rounds"]] == [1, 2]
    for entry in report["rounds"]:
        assert isinstance(entry["promoted"], bool)
        for name in ("win_rate_vs_previous", "win_rate_vs_base"):
            rate = entry[name]
            assert 0 <= rate["low"] <= rate["win_rate"] <= rate["high"] <= 1 and rate["num_pairs"] == 40
        assert 0 <= entry["reward_model"]["accuracy"] <= 1
        data = entry["data"]
        assert data["prompts"] == data["kept"] + data["dropped"]
        # The teacher and the newest policy, four samples each for every prompt.
        assert data["completions"] == 2 * 4 * data["kept"]
        assert 0 < data["sft_rows"] <= data["kept"] and 0 < data["pairs"] <= data["kept"]
    assert {row["model"] for row in report["ratings"]} >= {"base", "round_1", "round_2", "students/small"}
    assert next(row for row in report["ratings"] if row["model"] == "base")["rating"] == 0
    student = report["students"][0]
    assert student["name"] == "small" and student["win_rate_vs_own_base"]["num_pairs"] == 40
    assert student["win_rate_vs_teacher"]["num_pairs"] == 40
    assert report["seconds"]["base/model"] > 0


def test_report_json_has_every_pair_by_every_judge_and_drift_of_every_round(finished: Run, capsys) -> None:
    root = str(finished.folder.parent.parent)
    capsys.readouterr()
    assert main(["report", "tiny", "--root", root, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["judges"] == [
        {"name": "verifier", "kind": "verifier", "main": True, "trained_against": False},
        {"name": "trained_against", "kind": "reward_model", "main": False, "trained_against": True},
    ]
    models = {row["model"] for row in report["ratings_by_judge"]["verifier"]}
    assert {"base", "round_1/sft", "round_1", "round_2/sft", "students/small", "teacher"} <= models
    for judge in ("verifier", "trained_against"):
        entries = [entry for entry in report["matrix"] if entry["judge"] == judge]
        assert {frozenset((e["a"], e["b"])) for e in entries} == {frozenset(p) for p in combinations(models, 2)}
        assert len(entries) == len(models) * (len(models) - 1) / 2
        for entry in entries:
            assert entry["low"] <= entry["win_rate"] <= entry["high"] and entry["num_pairs"] == 40
            assert entry["wins"] + entry["ties"] + entry["losses"] == 40 and entry["unreadable"] == 0
            assert entry["mean_length_a"] > 0 and 0 <= entry["length_controlled"]["win_rate"] <= 1
        assert {row["model"] for row in report["ratings_by_judge"][judge]} == models
    (agreement,) = report["agreement"]
    assert {agreement["judge_a"], agreement["judge_b"]} == {"verifier", "trained_against"}
    assert agreement["num_pairs"] == 40 * len(models) * (len(models) - 1) / 2
    measures = {(row["round"], row["measure"]) for row in report["drift"]}
    assert {number for number, _ in measures} == {1, 2} and len(measures) == 12
    assert all(isinstance(row["alarm"], bool) and row["reason"] for row in report["drift"])


def test_the_matrix_of_the_main_judge_says_what_the_rounds_said(finished: Run, capsys) -> None:
    root = str(finished.folder.parent.parent)
    capsys.readouterr()
    assert main(["report", "tiny", "--root", root, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    found = {(e["a"], e["b"]): e for e in report["matrix"] if e["judge"] == "verifier"}
    in_round = report["rounds"][0]["win_rate_vs_base"]
    shared = ("win_rate", "num_pairs", "wins", "ties", "losses", "unreadable", "mean_length_a", "mean_length_b")
    assert {key: found["round_1", "base"][key] for key in shared} == {key: in_round[key] for key in shared}


def test_labels_that_come_later_run_the_new_stages_alone(finished: Run, tmp_path: Path, capsys) -> None:
    root = tmp_path / "copy"
    shutil.copytree(finished.folder.parent.parent, root, symlinks=True)
    labels = tmp_path / "labels.jsonl"
    prompts = [row["prompt_id"] for row in read_rows(finished.folder / "eval_prompts" / "prompts.jsonl")]
    models = {"a": "base", "b": "round_1"}
    rows = [{"prompt_id": name, **models, "preference": n % 2} for n, name in enumerate(prompts[:10])]
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = f"evaluate.judges.people={{kind: labels, path: {labels}}}"
    assert main(["run", str(RECIPE), judge, "--root", str(root)]) == 0
    ran = {label for label, status in statuses(find_run("tiny", root)).items() if status == "ran"}
    assert ran == {"evaluation/people/matrix", "evaluation/agreement"}
    capsys.readouterr()
    assert main(["report", "tiny", "--root", str(root), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    (entry,) = [entry for entry in report["matrix"] if entry["judge"] == "people"]
    assert (entry["a"], entry["b"], entry["win_rate"], entry["num_pairs"]) == ("round_1", "base", 0.5, 10)
    people = [row for row in report["agreement"] if "people" in (row["judge_a"], row["judge_b"])]
    assert [row["num_pairs"] for row in people] == [10, 10]


def test_the_other_commands_read_the_run(finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(finished.folder.parent.parent)
    row = read_rows(finished.folder / "round_1" / "select" / "sft.jsonl")[0]
    for arguments, expected in (
        (["status", "tiny"], "tiny: finished"),
        (["why", "tiny", "round_2/sft"], "nothing to compare with"),
        (["verify", "tiny"], "all as their manifests say"),
        (["trace", "tiny", row["prompt_id"]], "trained on"),
        (["report", str(finished.folder)], "report.html"),
        (["export", "tiny", "--model", "small", "--out", str(tmp_path / "small")], "small"),
    ):
        capsys.readouterr()
        assert main([*arguments, "--root", root]) == 0
        assert expected in capsys.readouterr().out, arguments
    check_model_dir(tmp_path / "small")
    assert "tiny" in (tmp_path / "small" / "README.md").read_text()
    page = (finished.folder / "report.html").read_text()
    assert "round_2" in page and "http://" not in page.replace("http://www.w3.org", "")


def test_evaluation_prompts_reach_no_training_row(finished: Run) -> None:
    root = finished.folder.parent.parent
    held_out = {row["prompt_id"] for row in read_rows(finished.folder / "eval_prompts" / "prompts.jsonl")}
    files = [path for name in ("sft", "pairs", "preferences") for path in root.glob(f"artifacts/*/*/{name}.jsonl")]
    trained = {row["prompt_id"] for path in files for row in read_rows(path)}
    assert len(held_out) == 40 and len(trained) > 60
    assert not held_out & trained


def test_a_changed_number_runs_only_what_it_touches(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(finished.folder.parent.parent)
    capsys.readouterr()
    assert main(["plan", str(RECIPE), "train.dpo.beta=0.2", "--root", root, "--json"]) == 0
    stages = {row["label"]: row["status"] for row in json.loads(capsys.readouterr().out)["stages"]}
    assert stages["round_1/sft"] == stages["round_1/scores"] == "hit"
    assert stages["round_1/dpo"] == stages["round_2/annotate/completions_1"] == stages["students/small/sft"] == "run"
