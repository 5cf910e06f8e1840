"""Scoring a file: exactly once, whatever kills it and however many workers it has."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from posttrain.core.chat import load_tokenizer
from posttrain.core.models import load_reward_model
from reward import score_shard
from reward.errors import RewardError
from reward.score import score_rows
from reward.score_files import ScoreJob, score_with_workers


def completion(prompt, index, text):
    return {
        "prompt_id": f"p{prompt}",
        "sample_index": index,
        "prompt": [{"role": "user", "content": f"say {'cat ' * (prompt % 5)}"}],
        "completion": [{"role": "assistant", "content": text}],
        "model": "m",
        "note": {"of": ["ours", 1.5]},
    }


@pytest.fixture
def rows():
    return [completion(p, i, "red " * (1 + (p * 3 + i) % 11)) for p in range(15) for i in range(3)]


@pytest.fixture
def job(tmp_path, tiny_reward_model_dir, rows):
    path = tmp_path / "completions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ScoreJob(str(tiny_reward_model_dir), str(path), str(tmp_path / "out"), max_batch_tokens=64)


def read(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def scores_of(job):
    return {(row["prompt_id"], row["sample_index"]): row["score"] for row in read(Path(job.out) / "scored.jsonl")}


def test_the_rows_come_out_in_order_with_scores(job, rows, tiny_reward_model_dir):
    summary = score_with_workers(job)
    scored = read(Path(job.out) / "scored.jsonl")
    assert [{k: v for k, v in row.items() if k != "score"} for row in scored] == rows
    expected = score_rows(rows, load_reward_model(tiny_reward_model_dir), load_tokenizer(tiny_reward_model_dir))
    assert [row["score"] for row in scored] == pytest.approx([row["score"] for row in expected], abs=1e-5)
    assert (summary["completions"], summary["scored"], summary["rejects"]) == (45, 45, 0)


def test_the_same_call_again_loads_no_model(job, monkeypatch):
    first = score_with_workers(job)
    monkeypatch.setattr(score_shard, "load_reward_model", lambda *_, **__: pytest.fail("loaded a model again"))
    written = {path: path.stat().st_mtime_ns for path in Path(job.out).iterdir() if path.is_file()}
    assert score_with_workers(job) == first
    assert {path: path.stat().st_mtime_ns for path in written} == written  # nothing is written again either


def test_a_result_that_was_removed_is_written_again(job):
    first = score_with_workers(job)
    (Path(job.out) / "scored.jsonl").unlink()
    assert score_with_workers(job) == first
    assert (Path(job.out) / "scored.jsonl").exists()


def test_only_what_is_missing_is_scored(job, monkeypatch):
    calls = []
    real = score_shard.iter_scores

    def stops_after_two(rows, *rest):
        calls.append(len(rows))
        for number, batch in enumerate(real(rows, *rest)):
            if len(calls) == 1 and number == 2:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(score_shard, "iter_scores", stops_after_two)
    with pytest.raises(KeyboardInterrupt):
        score_with_workers(job)
    journal = Path(job.out) / "journal" / "scores-0.jsonl"
    saved = len(read(journal))
    with journal.open("a") as file:
        file.write('{"prompt_id": "p1", "sam')  # what a kill in the middle of a write leaves
    score_with_workers(job)
    assert 0 < saved < 45 and calls == [45, 45 - saved]
    assert len(scores_of(job)) == 45


def test_bad_rows_are_rejected_with_line_and_reason(job):
    path = Path(job.completions)
    lines = path.read_text().splitlines()
    lines[3] = "{broken"
    lines[5] = json.dumps({**completion(90, 0, "x"), "prompt": []})
    lines[7] = lines[6]
    lines[9] = json.dumps(completion(91, 0, "cat " * 400))
    path.write_text("\n".join(lines) + "\n")
    summary = score_with_workers(job)
    rejects = read(Path(job.out) / "rejects.jsonl")
    assert [reject["line"] for reject in rejects] == [4, 6, 8, 10]
    assert [reject["prompt_id"] for reject in rejects] == [None, "p90", "p2", "p91"]
    assert rejects[2]["reason"].startswith("duplicate") and rejects[3]["reason"].startswith("too long")
    assert summary["scored"] + summary["rejects"] == summary["completions"] == 45
    assert len(read(Path(job.out) / "scored.jsonl")) == 41


def test_a_folder_of_another_model_or_file_is_not_mixed_in(job, rows, tmp_path):
    score_with_workers(job)
    Path(job.completions).write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]))
    with pytest.raises(RewardError, match="another completions"):
        score_with_workers(job)
    with pytest.raises(RewardError, match="max_tokens"):
        score_with_workers(replace(job, max_tokens=100))


@pytest.mark.slow
@pytest.mark.parametrize(("num_workers", "num_rows"), [(2, 45), (3, 44)])  # neither divides
def test_several_workers_give_the_scores_of_one(job, rows, tmp_path, num_workers, num_rows):
    Path(job.completions).write_text("".join(json.dumps(row) + "\n" for row in rows[:num_rows]))
    alone = score_with_workers(job)
    several = replace(job, out=str(tmp_path / "several"))
    seen = []
    summary = score_with_workers(several, num_workers, progress=lambda done, total: seen.append((done, total)))
    assert summary == alone  # the noise too: one worker measures it, for all rows
    assert scores_of(several) == pytest.approx(scores_of(job), abs=1e-5)
    journals = [read(path) for path in sorted((Path(several.out) / "journal").glob("*.jsonl"))]
    assert len(journals) == num_workers and all(journals) and sum(map(len, journals)) == num_rows
    assert seen[-1] == (num_rows, num_rows)


SCRIPT = """
import sys
from reward.score_files import ScoreJob, score_with_workers
if __name__ == "__main__":
    score_with_workers(ScoreJob(*sys.argv[1:4], max_batch_tokens=1), int(sys.argv[4]))
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_and_another_number_of_workers_lose_and_repeat_nothing(job, tmp_path):
    script = tmp_path / "score_it.py"
    script.write_text(SCRIPT)
    journal = Path(job.out) / "journal"

    def start(workers):
        arguments = [sys.executable, str(script), job.reward_model, job.completions, job.out, str(workers)]
        return subprocess.Popen(arguments, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})

    process = start(2)
    deadline = time.monotonic() + 100
    while sum(len(path.read_bytes()) for path in journal.glob("*.jsonl")) < 300:
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read().decode()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    process = start(1)
    assert process.wait(timeout=100) == 0, process.stderr.read().decode()
    process.stderr.close()
    assert len(scores_of(job)) == len(read(Path(job.out) / "scored.jsonl")) == 45
    keys = [(e["prompt_id"], e["sample_index"]) for path in journal.glob("*.jsonl") for e in read(path)]
    assert len(keys) == len(set(keys)) == 45
