"""Scoring over a Ray cluster of two nodes on this machine: the scores of one process, whatever dies."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from posttrain.cli import main
from posttrain.core.errors import ModelError
from posttrain.core.model_files import model_hash
from posttrain.core.ray_queue import deal
from reward.noise import MOST_ROWS, spread
from reward.score_files import ScoreJob, read_completions, score_with_workers

pytest.importorskip("ray")
from reward.score_ray import NoiseRows, OpenRewardModel, unscored  # noqa: E402


def completion(prompt, index):
    return {
        "prompt_id": f"p{prompt}",
        "sample_index": index,
        "prompt": [{"role": "user", "content": f"say {'cat ' * (prompt % 5)}"}],
        "completion": [{"role": "assistant", "content": "red " * (1 + (prompt * 3 + index) % 11)}],
        "model": "m",
    }


@pytest.fixture
def job(tmp_path, tiny_reward_model_dir):
    path = tmp_path / "completions.jsonl"
    path.write_text("".join(json.dumps(completion(p, i)) + "\n" for p in range(500) for i in range(4)))
    # A batch holds one row, so that scoring takes long enough to be killed in the middle.
    return ScoreJob(str(tiny_reward_model_dir), str(path), str(tmp_path / "ray"), max_batch_tokens=1)


def read(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def keys_of(out):
    return [(row["prompt_id"], row["sample_index"]) for row in read(Path(out) / "journal/scores-ray.jsonl")]


def num_begun(out):
    """Count the tasks of which a part is done: each is in the hands of another worker."""
    done = Counter(int(prompt[1:]) for prompt, _ in keys_of(out))
    parts = [(sum(done[prompt] for prompt in task), 4 * len(task)) for task in deal(range(500), 2)]
    return sum(0 < scored < whole for scored, whole in parts)


def scores_of(out):
    return {(row["prompt_id"], row["sample_index"]): row["score"] for row in read(Path(out) / "scored.jsonl")}


def test_unscored_keeps_prompts_whole_and_cuts_at_most_in_eight():
    task = [[completion(p, i) for i in range(2)] for p in range(20)]
    done = [{"prompt_id": "p0", "sample_index": 1, "model": "m", "score": 1.0}]
    done += [{"prompt_id": "p1", "sample_index": i, "model": "m", "score": 1.0} for i in range(2)]
    (left,) = unscored(task, done, apart=False)
    assert [len(group) for group in left] == [1] + [2] * 18
    assert left[0][0]["sample_index"] == 0
    parts = unscored(task, done, apart=True)
    assert sum(parts, []) == left and [len(part) for part in parts] == [3, 3, 3, 3, 3, 3, 1]
    assert unscored([[completion(1, 0)]], done, apart=True) == []


def test_a_worker_measures_the_noise_of_one_process(job, tiny_reward_model_dir):
    """Of 2,000 rows, 4 to a prompt, 64 go to the worker, and 2,000 / 128 = 15 of those are compared."""
    rows, _, _ = read_completions(job.completions)
    chosen = [rows[index] for index in spread([row["prompt_id"] for row in rows], MOST_ROWS)]
    assert len(chosen) == 64 and len({row["prompt_id"] for row in chosen}) == 16
    task = NoiseRows(chosen, len(rows))
    work = OpenRewardModel(replace(job, max_batch_tokens=2048), model_hash(tiny_reward_model_dir))(0, 1000, "cpu")
    (noise,) = work(task)
    assert noise.rows == 15 and 0 <= noise.max_difference < 1e-5 and noise.why_padded is None
    assert (unscored(task, [], True), unscored(task, [noise], True)) == ([task], [])


def test_a_worker_refuses_files_that_are_another_model(job, tmp_path):
    with pytest.raises(ModelError, match="are another model .*expected 0123"):
        OpenRewardModel(job, "0123")(0, 1, "cpu")
    with pytest.raises(ModelError, match="same path on every node"):
        OpenRewardModel(replace(job, reward_model=str(tmp_path / "gone")), "0123")(0, 1, "cpu")


@pytest.mark.slow
def test_a_node_killed_in_the_middle_loses_and_repeats_nothing(job, tmp_path, cluster, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "synth")  # where the workers look too
    from slow_workers import SlowRewardModel

    monkeypatch.setattr("reward.score_ray.OpenRewardModel", partial(SlowRewardModel, folder=str(tmp_path)))
    here = replace(job, out=str(tmp_path / "here"), max_batch_tokens=2048)
    score_with_workers(here)
    kills, counts = [], []

    def kill_once(count, total):
        counts.append(count)
        if not kills and num_begun(job.out) == 2:  # both nodes are at work
            kills.append(count)
            cluster.kill_second()

    summary = score_with_workers(job, 2, kill_once, cluster.address)
    assert kills and kills[0] < 2000, "the kill came too late to test anything"
    assert counts[-1] == 2000
    keys = keys_of(job.out)
    assert len(keys) == len(set(keys)) == 2000
    assert summary["scored"] == 2000 and summary["rejects"] == 0
    assert summary["noise"]["rows"] == 15 and summary["undecided_prompts"] is not None
    assert scores_of(job.out) == pytest.approx(scores_of(here.out), abs=1e-6)


@pytest.mark.slow
def test_the_command_goes_on_with_what_one_process_began(job, tmp_path, cluster, tiny_reward_model_dir, capsys):
    model = tmp_path / "model"
    shutil.copytree(tiny_reward_model_dir, model)
    rows = Path(job.completions).read_text().splitlines()[:400]
    Path(job.completions).write_text("\n".join(rows) + "\n")

    def stop(count, total):
        raise KeyboardInterrupt

    begun = replace(job, reward_model=str(model), max_batch_tokens=2048)
    with pytest.raises(KeyboardInterrupt):
        score_with_workers(begun, 1, stop)
    saved = len(read(Path(job.out) / "journal/scores-0.jsonl"))
    options = ["--workers", "2", "--ray", cluster.address]
    command = ["score", "--reward-model", str(model), "--completions", job.completions, "--out", job.out, *options]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["scored"] == 400
    assert 0 < saved < 400 and len(keys_of(job.out)) == 400 - saved
    whole = replace(job, out=str(tmp_path / "here"), max_batch_tokens=2048)
    score_with_workers(whole)
    assert scores_of(job.out) == pytest.approx(scores_of(whole.out), abs=1e-6)
    assert main(["score", *command[1:-1], "127.0.0.1:1"]) == 0  # all is there: no cluster is needed
