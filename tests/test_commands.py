"""run, plan, status, why, trace and verify, on stages that only note that they ran."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import trivial_steps

from posttrain.cli import main
from posttrain.core.errors import StorageError
from posttrain.runs import find_run
from posttrain.stages import STAGES

RECIPE = """\
name: small
num_rounds: 2
base: {kind: practice}
annotate:
  annotator: {kind: verifier, function: "posttrain.practice.world:verify"}
  prompts: {kind: practice, num_prompts: 8}
reward_model: {kind: train, epochs: 1}
prompts:
  seed_prompts: {kind: practice, num_prompts: 4}
  generators: [{kind: magpie, num_prompts: 6}]
  num_prompts: 5
completions: {num_completions: 3, max_completion_tokens: 10}
train:
  sft: {epochs: 1}
  dpo: {epochs: 1, beta: 0.1}
evaluate:
  prompts: {kind: practice, num_prompts: 4}
  judge: {kind: verifier, function: "posttrain.practice.world:verify"}
"""
PROGRAM = """\
import signal
import sys
import trivial_steps
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with SIGINT ignored
trivial_steps.install()
from posttrain.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Bench:
    """A recipe and a root, and the commands on them."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.recipe = folder / "small.yaml"
        self.recipe.write_text(RECIPE)
        self.count = folder / "count"

    def call(self, verb: str, *arguments: str) -> int:
        what = str(self.recipe) if verb in ("run", "plan") else "small"
        return main([verb, what, *arguments, "--root", str(self.root)])

    def start(self, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "run", str(self.recipe), "--root", str(self.root)],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, stage: str) -> None:
        deadline = time.time() + 30
        while not (self.count.exists() and f"{stage}\n" in self.count.read_text()):
            assert time.time() < deadline, f"{stage} did not begin"
            time.sleep(0.02)

    def ran(self) -> Counter[str]:
        """Return how often each stage began since the last look."""
        begun = Counter(self.count.read_text().split()) if self.count.exists() else Counter()
        self.count.unlink(missing_ok=True)
        return begun

    @property
    def record(self) -> dict:
        return json.loads((self.root / "runs" / "small" / "run.json").read_text())


@pytest.fixture
def bench(tmp_path, monkeypatch):
    bench = Bench(tmp_path)
    monkeypatch.setenv("TRIVIAL_COUNT", str(bench.count))
    for name in list(STAGES):
        monkeypatch.setitem(STAGES, name, STAGES[name])  # so that the table is put back
    trivial_steps.install()
    return bench


# ------------------------------------------------------------------------------------------- run


def test_run_runs_what_plan_says_and_the_second_run_runs_nothing(bench, capsys):
    assert bench.call("plan", "--json") == 0
    planned = json.loads(capsys.readouterr().out)["stages"]
    assert not bench.root.exists()
    assert bench.call("run") == 0
    to_run = Counter(row["stage"] for row in planned if row["status"] == "run")
    assert bench.ran() == to_run
    assert f"{sum(to_run.values())} of {len(planned)} stages run" in capsys.readouterr().out
    first = bench.record
    assert [row["label"] for row in first["stages"]] == [row["label"] for row in planned]
    assert bench.call("run") == 0
    assert bench.ran() == Counter()
    assert f"0 of {len(planned)} stages run, {len(planned)} reused" in capsys.readouterr().out
    assert {row["status"] for row in bench.record["stages"]} == {"hit"}
    assert bench.record["names"] == first["names"]


def test_every_name_is_a_link_to_its_artifact(bench):
    bench.call("run")
    run = find_run("small", bench.root)
    wanted = {"base/model", "best", "round_2/policy", "round_2/dpo", "round_1/eval/win_rate_vs_base"}
    assert wanted <= set(run.record["names"])
    for label in run.record["names"]:
        assert (run.folder / label).resolve() == run.artifact(label).path.resolve()
        assert (run.folder / label / "manifest.json").is_file()
    assert run.artifact("best") == run.artifact("round_2/dpo")


def test_links_of_an_earlier_recipe_go(bench):
    bench.call("run")
    old = (bench.root / "runs" / "small" / "round_1" / "policy").resolve()
    bench.call("run", "num_rounds=1", "train.dpo=null")
    run = find_run("small", bench.root)
    links = {str(path.relative_to(run.folder)) for path in run.folder.rglob("*") if path.is_symlink()}
    assert links == set(run.record["names"])
    assert not any(link.startswith("round_2") or link.endswith("dpo") for link in links)
    assert (run.folder / "round_1" / "policy").resolve() != old


def test_report_is_written_anew_for_other_artifacts_only(bench):
    report = bench.root / "runs" / "small" / "report.html"
    for overrides, written in (([], True), ([], False), (["train.dpo.beta=0.05"], True), ([], True), ([], False)):
        before = report.stat().st_mtime_ns if report.exists() else 0
        bench.call("run", *overrides)
        assert (report.stat().st_mtime_ns != before) is written


def test_failed_run_says_so_and_goes_on(bench, monkeypatch, capsys):
    monkeypatch.setenv("TRIVIAL_ERROR", "reward_model")
    with pytest.raises(MemoryError):  # our bug, or the machine's: the traceback is wanted
        bench.call("run")
    begun = bench.ran()
    assert bench.record["state"] == "failed"
    capsys.readouterr()
    assert bench.call("status") == 0
    out = capsys.readouterr().out
    assert "failed      round_1/reward_model" in out
    assert "waiting     round_1/sft" in out
    assert out.endswith("small: failed\n")
    monkeypatch.delenv("TRIVIAL_ERROR")
    assert bench.call("run") == 0
    again = bench.ran()
    assert again["reward_model"] == 2 and again["practice_model"] == 0
    artifact = find_run("small", bench.root).artifact("round_1/reward_model")
    assert (artifact.path / "work").read_text() == "begun\nbegun\n"
    assert begun["reward_model"] == 1


@pytest.mark.slow
def test_killed_run_is_interrupted_and_ends_with_the_same_artifacts(bench, tmp_path, capsys):
    process = bench.start(TRIVIAL_WAIT="dpo")
    bench.wait_for("dpo")
    bench.call("status")
    out = capsys.readouterr().out
    assert "running     round_1/dpo" in out and out.endswith("small: running\n")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=120)
    bench.call("status")
    out = capsys.readouterr().out
    assert "interrupted round_1/dpo" in out and "running" not in out and out.endswith("small: interrupted\n")
    before = bench.ran()
    assert bench.call("run") == 0
    after = bench.ran()
    whole = Bench(tmp_path)
    whole.root = tmp_path / "other"
    assert whole.call("run") == 0
    total = whole.ran()
    assert before["dpo"] == 1 and before + after == total + Counter({"dpo": 1})
    names = [{label: name["reference"] for label, name in item.record["names"].items()} for item in (bench, whole)]
    assert names[0] == names[1]
    assert bench.call("verify") == 0


def test_interrupt_from_the_keyboard_keeps_what_is_there(bench, capsys):
    process = bench.start(TRIVIAL_WAIT="sft")
    bench.wait_for("sft")
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted; the same command goes on where it was" in message and "Traceback" not in message
    bench.call("status")
    assert "interrupted round_1/sft" in capsys.readouterr().out
    bench.ran()
    bench.call("run")
    assert bench.ran()["practice_model"] == 0


@pytest.mark.slow
def test_two_commands_at_once_run_every_stage_once(bench, capsys):
    bench.call("plan", "--json")
    planned = json.loads(capsys.readouterr().out)["stages"]
    both = [bench.start(), bench.start()]
    for process in both:
        process.communicate(timeout=120)
    assert [process.returncode for process in both] == [0, 0]
    assert bench.ran() == Counter(row["stage"] for row in planned if row["status"] == "run")
    assert (bench.record["state"], len(bench.record["stages"])) == ("finished", len(planned))


@pytest.mark.slow
def test_waiting_for_another_command_is_announced(bench, capsys):
    process = bench.start(TRIVIAL_WAIT="sft")
    bench.wait_for("sft")
    other = bench.start()
    assert "another command is running small" in other.stderr.readline()
    process.kill()
    process.communicate(timeout=120)
    other.communicate(timeout=120)
    assert other.returncode == 0
    assert find_run("small", bench.root).state == "finished"


# ------------------------------------------------------------------------------------------- plan


def test_plan_counts_rows_and_tokens_by_hand(bench, capsys):
    bench.call("plan", "--json")
    plan = json.loads(capsys.readouterr().out)
    assert set(plan) == {"recipe", "stages"}
    assert all(set(row) == {"label", "stage", "address", "status", "rows", "tokens"} for row in plan["stages"])
    rows = {row["label"]: (row["status"], row["rows"], row["tokens"]) for row in plan["stages"]}
    assert rows["round_1/annotate/prompts"] == ("run", 4, None)  # 8 prompts in 2 rounds
    assert rows["round_1/prompts/magpie_1"] == ("run", 6, 6 * 512)
    assert rows["round_1/prompts/clean"] == ("run", 5, None)  # 6 written, at most 5 wanted
    assert rows["round_1/completions/policy"] == ("run", 15, 150)  # 5 prompts, 3 samples, 10 tokens
    assert rows["round_1/scores"] == ("run", 15, None)
    assert rows["base/model"] == ("run", None, 1600 * 1024)


def test_plan_bounds_uneven_parts_from_above(bench, capsys):
    bench.call("plan", "--json", "num_rounds=3")
    rows = {row["label"]: row["rows"] for row in json.loads(capsys.readouterr().out)["stages"]}
    assert rows["round_1/annotate/prompts"] == 3  # 8 prompts in parts of 3, 3 and 2


def test_a_drift_alarm_that_stops_is_planned_and_stands_on_the_record(bench, capsys, monkeypatch):
    """The first run warns; told to stop, plan and run come as far as the alarm, and the record says that it failed."""
    measured = {"round": 1, "measure": "refusal_share", "value": 0.5, "threshold": 0.1}
    alarm = measured | {"alarm": True, "reason": "half refuse"}
    monkeypatch.setitem(trivial_steps.METRICS, "drift", {"drift": [alarm]})
    assert bench.call("run") == 0
    capsys.readouterr()
    stop = "evaluate.drift.on_alarm=stop"
    assert bench.call("plan", "--json", stop) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["stages"][-1]["label"] == "round_1/drift" and {row["status"] for row in plan["stages"]} == {"hit"}
    assert plan["stop"].startswith("round_1 has drifted: refusal_share: half refuse")
    assert bench.call("plan", stop) == 0
    assert "The run stops there: round_1 has drifted" in capsys.readouterr().out
    assert bench.call("run", "train.dpo.beta=0.05") == 0  # warns: another record
    assert bench.call("run", stop) == 1
    assert "round_1 has drifted" in capsys.readouterr().err
    assert bench.record["state"] == "failed" and bench.record["stages"][-1]["label"] == "round_1/drift"
    assert json.loads((bench.root / "runs/small/recipe.resolved.json").read_text())["train"]["dpo"]["beta"] == 0.1


def test_a_full_disk_while_indexing_stops_no_run(bench, caplog, monkeypatch):
    def full(root, artifact):
        raise StorageError("no room for the index")

    monkeypatch.setattr("posttrain.runner.index_rows", full)
    assert bench.call("run") == 0
    assert bench.record["state"] == "finished"
    assert {row["status"] for row in bench.record["stages"]} == {"ran", "hit"}  # some are asked twice
    assert caplog.text.count("posttrain trace makes it") == 1


def test_plan_after_a_change_shows_where_work_begins(bench, capsys):
    bench.call("run")
    capsys.readouterr()
    bench.call("plan", "--json", "train.dpo.beta=0.05")
    status = {row["label"]: row["status"] for row in json.loads(capsys.readouterr().out)["stages"]}
    assert (status["round_1/sft"], status["round_1/dpo"], status["round_2/annotate/prompts"]) == ("hit", "run", "hit")


# ------------------------------------------------------------------------------------------- status, why


def test_unknown_run_lists_those_that_are_there(bench, capsys):
    assert bench.call("status") == 1
    assert "there are no runs in" in capsys.readouterr().err
    bench.call("run")
    assert main(["status", "smal", "--root", str(bench.root)]) == 1
    assert "no run 'smal'; runs in" in (message := capsys.readouterr().err) and ": small." in message


def test_run_is_found_by_its_folder_too(bench, capsys, monkeypatch):
    bench.call("run")
    capsys.readouterr()
    monkeypatch.chdir(bench.root / "runs")
    assert main(["status", "small"]) == 0
    assert capsys.readouterr().out.endswith("small: finished\n")


def test_why_names_the_changed_field(bench, capsys):
    bench.call("run")
    old = find_run("small", bench.root).artifact("round_2/dpo")
    bench.call("run", "train.dpo.beta=0.05")
    capsys.readouterr()
    assert bench.call("why", "round_1/dpo") == 0
    assert capsys.readouterr().out.splitlines()[2:] == ["    config.training.beta: 0.1 → 0.05"]
    assert bench.call("why", "round_2/dpo") == 0
    out = capsys.readouterr().out
    assert f"nearest other artifact: dpo/{old.address}" in out  # not round 1's of this very run, with equal beta
    assert "    config.training.beta: 0.1 → 0.05" in out.splitlines()


def test_why_follows_changed_inputs_and_tells_each_once(bench, capsys):
    bench.call("run")
    bench.call("run", "train.dpo.beta=0.05")
    capsys.readouterr()
    bench.call("why", "round_2/annotate/labels")
    lines = capsys.readouterr().out.splitlines()
    order = [line.split(":")[0].strip() for line in lines if "in the latest command" in line]
    assert order == ["round_2/annotate/labels", "round_2/annotate/completions_1", "round_1/dpo"]
    assert lines[-1].strip() == "config.training.beta: 0.1 → 0.05"
    bench.call("why", "evaluation/verifier/matrix")
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    told = [line.split(" ")[0] for line in lines if line.endswith("in the latest command)")]
    assert len(told) == len(set(told))


def test_why_of_a_first_run_has_nothing_to_compare_with(bench, capsys):
    bench.call("run")
    capsys.readouterr()
    assert bench.call("why", "dpo") == 0
    assert capsys.readouterr().out.count("nothing to compare with") == 2  # both rounds
    assert bench.call("why", "rlhf") == 1
    assert "run small has no stage 'rlhf'; it has: base/model" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- trace, verify


def test_trace_follows_a_prompt_to_the_checkpoints(bench, capsys):
    bench.call("run", "num_rounds=1")
    capsys.readouterr()
    assert bench.call("trace", "p") == 0
    out = capsys.readouterr().out
    way = ("round_1/prompts/magpie_1", "round_1/completions/policy", "round_1/scores", "round_1/select")
    places = [out.index(f"{step}  (") for step in (*way, "round_1/sft", "round_1/dpo")]
    assert places == sorted(places)
    assert "source magpie · round 1" in out
    assert "sample 0 · score 2 (rank 1 of 2) · SFT row · chosen over sample 1 (margin 1)" in out
    trained = [line.split("  (")[0].strip() for line in out.splitlines() if "trained on 1 row of it" in line]
    assert trained == ["round_1/sft", "round_1/dpo"]


def test_trace_takes_the_row_behind_options(bench, capsys):
    bench.call("run")
    capsys.readouterr()
    assert bench.call("trace", "--json", "p") == 0
    assert json.loads(capsys.readouterr().out)["prompt_id"] == "p"


def test_a_place_that_cannot_be_made_is_told_without_a_traceback(tmp_path, capsys):
    verifier, rows = tmp_path / "one.py", tmp_path / "rows.jsonl"
    verifier.write_text("def verify(prompt, completion, row):\n    return 1.0\n")
    rows.write_text('{"prompt_id": "p", "prompt": "say", "completion": "yes"}\n')
    files = ["--a", str(rows), "--b", str(rows), "--judge", f"verifier:{verifier}:verify"]
    assert main(["winrate", *files, "--out", "/proc/nowhere/out"]) == 1
    assert "/proc/nowhere: it is not there and cannot be made; give another place" in capsys.readouterr().err


def test_trace_of_one_sample_leaves_the_others_out(bench, capsys):
    bench.call("run", "num_rounds=1")
    capsys.readouterr()
    bench.call("trace", "p:1")
    out = capsys.readouterr().out
    assert "sample 1 · score 1" in out and "sample 0 · score" not in out
    assert [line.split("  (")[0].strip() for line in out.splitlines() if "trained on" in line] == ["round_1/dpo"]
    assert bench.call("trace", "p:99") == 1
    assert "has no sample 99 of prompt 'p'" in capsys.readouterr().err


def test_trace_says_why_a_prompt_was_dropped_and_takes_ids_with_colons(bench, capsys):
    bench.call("run", "num_rounds=1")
    capsys.readouterr()
    assert bench.call("trace", "q:1", "--json") == 0
    story = json.loads(capsys.readouterr().out)
    assert (story["prompt_id"], story["sample_index"], story["trained"]) == ("q:1", None, [])
    assert bench.call("trace", "q:1:0") == 0
    assert bench.call("trace", "r") == 1
    assert "run small has no row 'r'" in capsys.readouterr().err


def test_trace_of_a_checkpoint_counts_its_rows_and_writes_them(bench, capsys, tmp_path):
    bench.call("run", "num_rounds=1")
    capsys.readouterr()
    out = tmp_path / "rows.parquet"
    assert bench.call("trace", "--model", "round_1", "--json", "--out", str(out), "--text") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["total"] == {"rows": 2, "answers": 3}  # an SFT row, and a pair
    assert told["out"] == {"path": str(out), "answers": 3} and out.is_file()
    assert bench.call("trace", "--model", "best") == 0
    assert "in its weights: round_1 ← round_1/sft ← base" in capsys.readouterr().out
    assert bench.call("trace", "--model", "round_7") == 1
    assert "has no model 'round_7'; it has: best, base, round_1" in capsys.readouterr().err
    assert bench.call("trace", "p", "--out", str(out)) == 1
    assert "give it with --model" in capsys.readouterr().err
    for arguments in ([], ["p", "--model", "best"]):
        with pytest.raises(SystemExit, match="2"):
            bench.call("trace", *arguments)


def test_a_finished_stage_has_its_index_and_a_damaged_one_says_what_to_remove(bench, capsys):
    bench.call("run", "num_rounds=1")
    indexes = bench.root / "artifacts" / ".lineage"
    before = {path.name: path.stat().st_mtime_ns for path in indexes.iterdir()}
    assert bench.call("trace", "p") == 0 and bench.call("verify") == 0
    assert {path.name: path.stat().st_mtime_ns for path in indexes.iterdir()} == before
    for path in indexes.iterdir():
        path.write_bytes(b"not a database")
    capsys.readouterr()
    assert bench.call("trace", "p") == 1
    assert f"an index in {indexes} is damaged" in capsys.readouterr().err


def test_verify_names_the_file_whose_bytes_changed(bench, capsys):
    bench.call("run")
    assert bench.call("verify") == 0
    assert "all as their manifests say" in capsys.readouterr().out
    path = find_run("small", bench.root).artifact("round_1/scores").path / "scored.jsonl"
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    assert bench.call("verify") == 1
    message = capsys.readouterr().err
    assert f"{path}: content differs from the manifest" in message
    assert message.startswith("posttrain verify: 1 fault")


def test_verify_misses_an_artifact_that_was_removed(bench, capsys):
    bench.call("run")
    artifact = find_run("small", bench.root).artifact("round_1/select")
    artifact.path.rename(bench.root / "elsewhere")
    assert bench.call("verify") == 1
    assert f"round_1/select: {artifact.reference} is not there" in capsys.readouterr().err
    assert bench.call("run") == 0  # made anew, and nothing else
    assert bench.call("verify") == 0


def test_report_of_the_run_is_json(bench, capsys):
    bench.call("run")
    capsys.readouterr()
    assert bench.call("report", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["recipe"], report["state"]) == ("small", "finished")
    assert [item["round"] for item in report["rounds"]] == [1, 2]
    assert report["rounds"][0]["win_rate_vs_base"]["win_rate"] == 0.6
