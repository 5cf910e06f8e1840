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
from posttrain.practice.world import verify
from posttrain.report.blocks import rate
from posttrain.report.collect import collect
from posttrain.report.export import export_model
from posttrain.runs import Run, find_run

RECIPE = Path(__file__).parent / "tiny_recipe.yaml"


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


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_artifacts(finished: Run, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "posttrain.cli", "run", str(RECIPE), "--root", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    kills = 0
    for wanted in (3, 20, 40):  # killed when so many artifacts are there
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        while process.poll() is None and len(list(tmp_path.glob("artifacts/*/[!.]*/manifest.json"))) < wanted:
            time.sleep(0.05)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills == 3
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("artifacts/*/[!.]*/manifest.json")}
    assert find_run("tiny", tmp_path).state == "interrupted"
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())  # finished stages were not redone
    assert results(tmp_path) == results(finished.folder.parent.parent)


@pytest.mark.slow
def test_what_is_gone_is_said_before_anything_is_told_without_it(finished, tmp_path, capsys, caplog):
    root = tmp_path / "copy"
    shutil.copytree(finished.folder.parent.parent, root, symlinks=True)
    lost = find_run("tiny", root).artifact("round_1/select")
    rows = read_rows(lost.path / "sft.jsonl")
    assert find_run("tiny", root).lost == []
    shutil.rmtree(lost.path)
    told = f"round_1/select: {lost.reference}"
    for command in (["trace", "tiny", "--model", "best"], ["trace", "tiny", rows[0]["prompt_id"]], ["report", "tiny"]):
        caplog.clear()
        assert main([*command, "--root", str(root)]) == 0
        where = f"run tiny are not in {root / 'artifacts'}"
        assert f"{where}, and what follows leaves them out: {told}. Name" in caplog.text
    capsys.readouterr()
    for command in (["--model", "base"], [rows[0]["prompt_id"]]):
        assert main(["trace", "tiny", *command, "--json", "--root", str(root)]) == 0
        assert json.loads(capsys.readouterr().out)["lost"] == [told]
    assert main(["trace", "tiny", "--model", "base", "--root", str(root)]) == 0
    assert "no row of run tiny, of those that are still there, trained it" in capsys.readouterr().out
    page = (root / "runs" / "tiny" / "report.html").read_text()
    assert "1 artifacts of this run were gone when this page was made" in page and told in page
    capsys.readouterr()


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
    # Round 2 may have taken round 1's policy instead of an average: then they are one model, under its first name.
    models = {"base", "round_1/sft", "round_1", "round_2/sft", "students/small", "teacher"}
    assert {row["model"] for row in report["ratings"]} - {"round_2"} == models
    assert report["ratings"][0] == {"model": "base", "rating": 0, "low": 0, "high": 0}
    assert report["ratings"] == report["ratings_by_judge"]["verifier"]  # one rating of a model by one judge
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


@pytest.mark.slow
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


def test_the_report_holds_what_the_artifacts_say(finished: Run) -> None:
    report = collect(finished)
    for entry in report["rounds"]:
        name, folder = str(entry["round"]), finished.folder / f"round_{entry['round']}"
        scored, sft = read_rows(folder / "scores" / "scored.jsonl"), read_rows(folder / "select" / "sft.jsonl")
        pairs = read_rows(folder / "select" / "pairs.jsonl")
        bins = report["rewards"][name]
        assert [sum(bin[kind] for bin in bins) for kind in ("count", "kept", "rejected")] == [
            len(scored), len(sft), len(pairs)
        ]  # fmt: skip
        counts = {(step["step"], step["unit"]): step["rows"] for step in report["funnel"][name]["steps"]}
        data = entry["data"]
        assert counts["written", "prompts"] == data["prompts"] and counts["cleaned", "prompts"] == data["kept"]
        assert counts["sampled", "samples"] == len(scored) and counts["trained", "pairs"] == len(pairs)
        drops = {step["step"]: sum(step["dropped"].values()) for step in report["funnel"][name]["steps"]}
        assert drops["cleaned"] == data["dropped"]
        assert drops["kept"] == len(read_rows(folder / "select" / "dropped.jsonl"))
        trained = [row for row in report["trained_on"] if row["round"] == entry["round"]]
        assert sum(row["sft_rows"] for row in trained) == len(sft)
        assert sum(row["pairs"] for row in trained) == len(pairs)


def test_gold_scores_of_the_samples_are_the_verifiers(finished: Run) -> None:
    gold = read_rows(finished.folder / "round_1" / "gold" / "gold.jsonl")
    scored = read_rows(finished.folder / "round_1" / "scores" / "scored.jsonl")
    # This recipe keeps prompts that are no task: a verifier that fails on too many of them stops, and the run goes on.
    assert 0 < len(gold) <= len(scored)
    groups: dict[str, list[tuple[float, float]]] = {}
    for judged, row in zip(gold, scored, strict=False):
        assert [judged[key] for key in ("prompt_id", "sample_index", "model")] == [
            row[key] for key in ("prompt_id", "sample_index", "model")
        ]
        if judged["gold"] is None:
            with pytest.raises(ValueError, match="no task"):
                verify(row["prompt"], row["completion"][0]["content"], row)
        else:
            assert judged["gold"] == verify(row["prompt"], row["completion"][0]["content"], row)
            groups.setdefault(row["prompt_id"], []).append((row["score"], judged["gold"]))
    full = [group for group in groups.values() if len(group) == 8]
    curves = collect(finished)["best_of_k_gold"]["1"]
    assert curves["num_prompts"] == len(full) > 0
    mean = sum(sum(worth for _, worth in group) / 8 for group in full) / len(full)
    best = sum(max(worth for _, worth in group) for group in full) / len(full)
    assert curves["picked"][1] == pytest.approx(mean) and curves["oracle"][8] == pytest.approx(best)
    ties = [[worth for score, worth in group if score == max(group)[0]] for group in full]
    assert curves["picked"][8] == pytest.approx(sum(sum(tie) / len(tie) for tie in ties) / len(ties))


def test_held_out_answers_can_be_browsed_with_the_judges_word(finished: Run) -> None:
    rows = [row for row in collect(finished)["samples"] if row["kind"] == "held-out answers" and row["round"] == 2]
    verdicts = read_rows(finished.folder / "round_2" / "eval" / "win_rate_vs_base" / "verdicts.jsonl")
    means: dict[str, list[float]] = {}
    for row in verdicts:
        means.setdefault(row["prompt_id"], []).append(row["preference"])
    assert len(rows) == 30
    for row in rows:
        mean = sum(means[row["prompt_id"]]) / len(means[row["prompt_id"]])
        assert row["verdict"] == ("win" if mean > 0.5 else "loss" if mean < 0.5 else "tie")
        assert {answer["side"]: answer["model"] for answer in row["completions"]} == {"a": "round_2", "b": "base"}
        assert sum(answer["count"] for answer in row["completions"]) == 2 * 2  # two samples of either model


def test_the_recipe_is_kept_as_it_was_written(finished: Run) -> None:
    report = collect(finished)
    assert report["recipe_text"] == {"text": RECIPE.read_text(encoding="utf-8"), "overrides": []}
    assert report["recipe_sources"]["train.dpo.beta"].startswith("Strength")


def test_the_card_of_an_export_has_the_numbers_of_the_report(finished: Run, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    export_model(finished, "round_2", tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    entry = collect(finished)["rounds"][1]
    assert f"| {rate(entry['win_rate_vs_base'])} |" in card.text
    values = [result.metric_value for result in card.data.eval_results]
    assert entry["win_rate_vs_base"]["win_rate"] in values
