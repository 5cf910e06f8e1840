"""Runs that are named by a link or were copied, file systems without locks, and numbers that stand on little."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from functools import partial

import pytest
from made import assistant, byte_bpe, llama, user, write_rows

from posttrain.commands.output import only_results
from posttrain.core.atomic import file_lock, is_locked
from posttrain.core.errors import DataError, StorageError
from posttrain.core.journal import Journal
from posttrain.kept import table_of_rounds
from posttrain.runner import Executor
from posttrain.runs import find_run
from posttrain.store.artifacts import ArtifactStore
from posttrain.store.fingerprint import identity
from posttrain.train.reward_model import check_number


@pytest.fixture
def root(tmp_path):
    """A run of one stage that is a model, promoted by nobody: its best is its base."""
    root = tmp_path / "root"
    model = llama(tmp_path / "model", byte_bpe())
    store = ArtifactStore(root)

    def fill(out):
        shutil.copytree(model, out, dirs_exist_ok=True)
        return {}

    artifact = store.build(identity("practice_model", 1, {}, {}), fill, {})
    held = store.build(identity("gate", 1, {}, {}), lambda out: {"promoted": False, "reason": "Held: no better."}, {})
    judged = store.build(
        identity("reward_model", 1, {}, {}), lambda out: {"accuracy": 1.0, "accuracy_pairs": 1, "num_held_out": 1}, {}
    )
    places = {"base/model": artifact, "best": artifact, "round_1/gate": held, "round_1/reward_model": judged}
    names = {label: {"reference": one.reference, "path": None} for label, one in places.items()}
    stages = [
        {"label": label, "stage": one.stage, "address": one.address, "status": "ran", "started": 0.0, "seconds": 1}
        for label, one in places.items()
        if label != "best"
    ]
    record = {"recipe": "tiny", "state": "finished", "stages": stages, "names": names, "planned": []}
    folder = root / "runs" / "tiny"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record))
    recipe = {
        "name": "tiny", "num_rounds": 1, "students": [], "base": {"kind": "folder", "path": "model"},
        "evaluate": {"judge": {"kind": "verifier", "function": "exact"}, "judges": {}}, "seed": 0,
    }  # fmt: skip
    (folder / "recipe.resolved.json").write_text(json.dumps(recipe))
    for label, one in places.items():
        link = folder / label
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(os.path.relpath(one.path, link.parent))
    return root


def test_a_link_to_a_run_names_the_same_run(root, tmp_path, run_command, monkeypatch):
    """The folder is moved, copied, or called "latest": the artifacts are where the run is, not where the link is."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "latest").symlink_to(root / "runs" / "tiny")
    (root / "runs" / "newest").symlink_to("tiny")
    monkeypatch.chdir(tmp_path / "elsewhere")
    for typed, more in (("latest", ()), ("newest", ("--root", root)), (str(root / "runs" / "tiny"), ())):
        found = find_run(typed, root if more else tmp_path)
        assert not found.lost and found.name == "tiny"
        ran = run_command("verify", typed, *more)
        assert ran.code == 0 and "3 artifacts" in ran.out
    shutil.copytree(root / "runs" / "tiny", tmp_path / "copy", symlinks=True)
    assert not find_run(str(tmp_path / "copy"), root).lost  # a folder alone, with --root
    ran = run_command("verify", tmp_path / "copy")
    assert ran.code == 1 and "--root names another place" in ran.said


def test_a_copy_that_followed_links_goes_on(root, tmp_path):
    """scp -r makes folders of links: the copy is put away, and a folder that is no artifact is never removed."""
    copied = tmp_path / "copied"
    shutil.copytree(root, copied)  # follows links
    store, run_dir = ArtifactStore(copied), copied / "runs" / "tiny"
    executor = Executor.__new__(Executor)
    executor.record = type("Record", (), {"name": lambda self, label, artifact: None})()
    executor.run_dir = run_dir
    artifact = find_run("tiny", copied).artifact("base/model")
    assert not (run_dir / "base" / "model").is_symlink()
    executor.alias("base/model", artifact)
    assert (run_dir / "base" / "model").is_symlink() and store.find_address(artifact.stage, artifact.address).manifest
    (run_dir / "best").rename(run_dir / "old")
    (run_dir / "best").mkdir()
    (run_dir / "best" / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match="move it away"):
        executor.alias("best", artifact)


def test_a_file_system_without_locks_is_said_and_can_be_worked_on(tmp_path, monkeypatch):
    """huggingface/datasets#8638, #6744: network file systems without flock give a traceback."""

    def flock(number, descriptor, operation):
        raise OSError(number, os.strerror(number))

    (tmp_path / "lock").touch()
    for number in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
        monkeypatch.setattr(fcntl, "flock", partial(flock, number))
        monkeypatch.delenv("POSTTRAIN_LOCKS", raising=False)
        for attempt in (lambda: file_lock(tmp_path / "lock").__enter__(), lambda: is_locked(tmp_path / "lock"),
                        lambda: Journal(tmp_path / "j.jsonl")):  # fmt: skip
            with pytest.raises(StorageError, match="has no file locks.*POSTTRAIN_LOCKS=none"):
                attempt()
        monkeypatch.setenv("POSTTRAIN_LOCKS", "none")
        with file_lock(tmp_path / "lock"), Journal(tmp_path / "j.jsonl") as journal:
            journal.append([{"a": 1}])
        assert is_locked(tmp_path / "lock") is False


def test_an_export_of_best_that_is_the_base_says_so(root, tmp_path, run_command, caplog):
    """Nothing was promoted: what comes out is the base, and a reader of the folder has to know."""
    ran = run_command("export", "tiny", "--root", root, "--model", "best", "--out", tmp_path / "out")
    assert ran.code == 0, ran.said
    assert "NO ROUND WAS PROMOTED" in caplog.text and "Held: no better." in caplog.text
    assert "No round was promoted: this is the base itself." in (tmp_path / "out" / "README.md").read_text()
    caplog.clear()
    again = run_command("export", "tiny", "--root", root, "--model", "base", "--out", tmp_path / "base")
    assert again.code == 0 and "PROMOTED" not in caplog.text


def test_an_accuracy_stands_beside_its_interval_and_number(root):
    """112 answers gave two preferences, and the table said "reward model 1.000"."""
    assert "1.000 [0.207, 1.000] of 1" in table_of_rounds(find_run("tiny", root))


def test_few_pairs_are_a_warning_and_fewer_an_error_before_training(tmp_path, run_command, caplog):
    check_number(90, 10, 2)
    assert not caplog.records
    check_number(9, 1, 2)
    assert "9 preference pairs and measured on 1" in caplog.text and "annotate.strengths" in caplog.text
    with pytest.raises(DataError, match="2 preference pairs, 1 of them held out.*set min_pairs to 2"):
        check_number(1, 1, 4)
    row = {"prompt": user("red"), "chosen": assistant("red"), "rejected": assistant("no")}
    command = [
        "train", "reward-model", "--model", llama(tmp_path / "m", byte_bpe()), "--data",
        write_rows(tmp_path / "pairs.jsonl", [row]), "--out", tmp_path / "out", "max_steps=1",
    ]  # fmt: skip
    ran = run_command(*command)
    assert ran.code == 1 and "set min_pairs to 1" in ran.said
    ran = run_command(*command, "min_pairs=1")
    assert ran.code == 0, ran.said
    assert json.loads(ran.out)["accuracy"] is None


def test_what_children_of_an_engine_write_is_no_part_of_the_result(tmp_path):
    """vLLM's processes write their log to descriptor 1, where a program reads JSON."""
    script = (
        "import subprocess, sys\nfrom posttrain.commands.output import only_results\n"
        "with only_results():\n    print('python')\n"
        "    subprocess.run([sys.executable, '-c', \"print('child')\"])\nprint('{}')\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "{}\n" and "python" in ran.stderr and "child" in ran.stderr


def test_results_are_kept_apart_in_this_process_too(capfd):
    with only_results():
        os.write(1, b"log\n")
    print("result")
    out, err = capfd.readouterr()
    assert out == "result\n" and err == "log\n"


def test_options_that_the_recipe_has_are_options_of_the_verb(tmp_path, run_command):
    rows = [
        {"prompt_id": "p", "sample_index": i, "prompt": user("red"), "completion": assistant("x" * (1 + i)),
         "score": float(i), "finish_reason": "stop"} for i in range(4)
    ]  # fmt: skip
    scored = write_rows(tmp_path / "scored.jsonl", rows)
    command = ["select", "--scored", scored, "--rule", "top_bottom", "--out", tmp_path / "out"]
    ran = run_command(*command, "--min-score", 9)
    assert ran.code == 0 and not (tmp_path / "out" / "sft.jsonl").read_text()
    assert run_command(*command, "--num-pairs", 2, "--length-penalty", 2).code == 0
    pairs = [json.loads(line) for line in (tmp_path / "out" / "pairs.jsonl").read_text().splitlines()]
    assert pairs[0]["chosen"][0]["content"] == "x"  # scores rise by 1 a letter, the penalty takes 2
    ran = run_command(
        "train", "sft", "--model", tmp_path / "none", "--data", scored, "--out", tmp_path, "--device", "cpu"
    )
    assert ran.code == 1 and "no such folder" in ran.said  # the option is known
