"""What people get wrong on the command line: one message that names the place, exit code 1, no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.cli import main

SCORED = {
    "prompt_id": "a",
    "sample_index": 0,
    "prompt": [{"role": "user", "content": "say one"}],
    "completion": [{"role": "assistant", "content": "one"}],
    "score": 1.0,
}


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    path = tmp_path / "scored.jsonl"
    path.write_text(json.dumps(SCORED) + "\n")
    return path


def message(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    """Run a command that has to fail, and return its message; nothing may stand on standard output."""
    assert main([str(arg) for arg in args]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


def test_out_that_is_a_file(scored, tmp_path, capsys):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"prompt_id": "a", "preference": 1}\n')
    judged = ["winrate", "--a", scored, "--b", scored, "--judge", f"labels:{labels}", "--out", taken]
    for command in (["select", "--scored", scored, "--rule", "max_min", "--out", taken], judged):
        assert f"{taken}: File exists" in message(capsys, *command)
    assert taken.read_text() == "mine"


def test_files_without_rows(tmp_path, tiny_reward_model_dir, capsys):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    select = ["select", "--scored", empty, "--rule", "max_min", "--out", tmp_path / "selected"]
    score = ["score", "--reward-model", tiny_reward_model_dir, "--completions", empty, "--out", tmp_path / "scores"]
    for command in (select, score):
        assert f"{empty} holds no rows" in message(capsys, *command)


def test_score_without_a_file(tmp_path, tiny_reward_model_dir, capsys):
    absent = tmp_path / "absent.jsonl"
    score = ["score", "--reward-model", tiny_reward_model_dir, "--completions", absent, "--out", tmp_path / "scores"]
    assert f"{absent} does not exist" in message(capsys, *score)


@pytest.mark.parametrize(("text", "told"), [("{", "cannot be read"), ('{"recipe": "x"}', "lacks state, stages")])
@pytest.mark.parametrize("verb", [["status"], ["report"], ["why", "sft"], ["trace", "p"], ["verify"]])
def test_damaged_record_of_a_run(tmp_path, capsys, text, told, verb):
    path = tmp_path / "runs/mine/run.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    name, *rest = verb
    printed = message(capsys, name, "mine", *rest, "--root", tmp_path)
    assert str(path) in printed and told in printed


def test_no_workers_is_a_fault_of_usage(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["score", "--reward-model", "x", "--completions", "y", "--out", str(tmp_path / "z"), "--workers", "0"])
    assert caught.value.code == 2
    assert "'0' is no whole number of at least 1" in capsys.readouterr().err


def test_completions_of_which_none_can_be_used(tmp_path, tiny_reward_model_dir, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "say one"}\n')
    score = ["score", "--reward-model", tiny_reward_model_dir, "--completions", path, "--out", tmp_path / "scores"]
    assert "line 1: missing column: completion" in message(capsys, *score)
    select = ["select", "--scored", path, "--rule", "best_of_k", "--out", tmp_path / "selected"]
    assert "1 × missing column" in message(capsys, *select)


def test_half_a_surrogate_pair_is_a_fault_of_its_row(tmp_path, tiny_reward_model_dir, capsys):
    broken = [
        SCORED | {"prompt_id": "b", "completion": [{"role": "assistant", "content": "\ud800"}]},
        SCORED | {"prompt_id": "\udfff"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [SCORED, *broken]))
    assert main(["select", "--scored", str(path), "--rule", "best_of_k", "--out", str(tmp_path / "selected")]) == 0
    assert json.loads(capsys.readouterr().out)["dropped"] == 2
    judge = f"reward_model:{tiny_reward_model_dir}"
    assert main(["winrate", "--a", str(path), "--b", str(path), "--judge", judge, "--out", str(tmp_path / "won")]) == 0


def test_half_a_surrogate_pair_in_an_id_of_training_rows(tmp_path, tiny_model_dir, capsys):
    path = tmp_path / "pairs.jsonl"
    pair = {"prompt": SCORED["prompt"], "chosen": SCORED["completion"], "prompt_id": "\ud800"}
    pair["rejected"] = [{"role": "assistant", "content": "two"}]
    path.write_text(json.dumps(pair) + "\n")
    train = ["train", "reward-model", "--model", tiny_model_dir, "--data", path, "--out", tmp_path / "trained"]
    assert "line 1: field 'prompt_id': character 1 is half" in message(capsys, *train, "learning_rate=1e-3")


def test_a_reward_model_is_no_policy_and_no_policy_a_reward_model(
    scored, tmp_path, tiny_reward_model_dir, tiny_model_dir, capsys
):
    train = ["train", "sft", "--data", scored, "--out", tmp_path / "trained", "max_steps=1", "learning_rate=1e-3"]
    assert "holds a reward model" in message(capsys, *train, "--model", tiny_reward_model_dir)
    score = ["score", "--reward-model", tiny_model_dir, "--completions", scored, "--out", tmp_path / "scores"]
    assert "a reward model gives 1" in message(capsys, *score)


def test_recipe_nested_too_deeply(tmp_path, capsys):
    path = tmp_path / "deep.yaml"
    path.write_text("a: " + "[" * 5000 + "]" * 5000)
    assert "nested too deeply" in message(capsys, "plan", path)
    assert "nested too deeply" in message(
        capsys, "plan", Path(__file__).with_name("tiny_recipe.yaml"), f"seed={'[' * 5000}"
    )
