"""Workers: the same files as one process, whatever their number, and nothing lost when they or their parent die."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
from scripted_workers import PARAMS, Opener, PickyOpener, RefusingOpener, draw, prompts

from posttrain.core.chat import load_tokenizer, stop_ids
from posttrain.core.errors import DataError, ModelError
from posttrain.core.files import read_rows
from synth.completions import sample_completions
from synth.engines.base import EngineError, SamplingParams
from synth.engines.transformers import TransformersEngine
from synth.sample_index import SampleIndex
from synth.sampling_job import make_job
from synth.workers import sample_with_workers, shares_of


def calls_in(folder: Path) -> list[tuple[str, int]]:
    return [(line.split()[0], int(line.split()[1])) for line in (folder / "calls").read_text().splitlines()]


@pytest.mark.parametrize(("num_prompts", "sizes"), [(40, [10] * 4), (10, [3, 3, 2, 2]), (3, [1, 1, 1]), (0, [])])
def test_shares_are_equal_and_hold_every_prompt_once(num_prompts, sizes):
    job = make_job(prompts(num_prompts), 1, PARAMS, 0, None, None)
    done = SampleIndex(job.prompts, 1, [])
    shares = shares_of(job, done, 4)
    names = [[row["prompt_id"] for _, row in s.prompts.usable(s.turns(done.missing))] for s in shares.values()]
    assert [len(share) for share in names] == sizes
    assert len({name for share in names for name in share}) == num_prompts


def test_what_a_kill_left_over_is_dealt_out_anew():
    """Of 40 prompts the even ones are done; two workers get ten of the rest each."""
    job = make_job(prompts(40), 1, PARAMS, 0, None, None)

    def missing(place):
        return [0] if place % 2 else []

    tests = [replace(job, share=(number, 2)).turns(missing) for number in (0, 1)]
    parts = [[place for place in range(40) if wanted(place)] for wanted in tests]
    assert parts == [list(range(1, 40, 4)), list(range(3, 40, 4))]


@pytest.mark.slow
def test_two_workers_write_the_file_of_one_process(tmp_path, tiny_model_dir):
    tokenizer = load_tokenizer(tiny_model_dir)
    params = SamplingParams(1.0, 1.0, 0, 10, tuple(stop_ids(tokenizer)))
    rows = [{"prompt": f"say {word}"} for word in ["cat", "dog", "bird", "fish", "tree", "house"]]
    engine = TransformersEngine(tiny_model_dir)
    sample_completions(rows, engine, tokenizer, 4, params, 3, tmp_path / "one")
    seen = []
    summary = sample_with_workers(
        rows, tiny_model_dir, 4, params, 3, tmp_path / "two", 2, progress=lambda *count: seen.append(count)
    )
    assert (tmp_path / "two/completions.jsonl").read_bytes() == (tmp_path / "one/completions.jsonl").read_bytes()
    assert summary.num_completions == 24 and seen[-1] == (24, 24)
    # The address of the samples is the same too, so one process finds the workers' folder finished.
    again = sample_completions(rows, engine, tokenizer, 4, params, 3, tmp_path / "two")
    assert again == summary


def test_a_killed_worker_is_made_up_for(tmp_path):
    summary = draw(prompts(12), tmp_path / "out", Opener(tmp_path, fatal="q5"), 2)
    assert (tmp_path / "died").exists()
    assert summary.num_completions == 36
    calls = calls_in(tmp_path)
    assert len(calls) == len(set(calls)) == 36


def test_a_worker_that_always_dies_ends_in_an_error_that_keeps_the_rest(tmp_path):
    with pytest.raises(EngineError, match=r"without a sample \(exit codes \[-9\]\)"):
        draw(prompts(4), tmp_path / "out", Opener(tmp_path, fatal="q3", once=False), 1)
    assert set(calls_in(tmp_path)) == {(f"q{i}", k) for i in range(3) for k in range(3)}
    draw(prompts(4), tmp_path / "out", Opener(tmp_path), 1)
    assert len(calls_in(tmp_path)) == 12


def test_the_progress_of_workers_counts_refused_prompts_as_done(tmp_path):
    seen = []
    summary = draw(prompts(4), tmp_path / "out", PickyOpener(), 2, progress=lambda *counts: seen.append(counts))
    assert (summary.num_completions, summary.num_rejects) == (9, 1)
    assert seen[-1] == (12, 12)


def test_an_error_of_ours_arrives_as_it_is(tmp_path):
    with pytest.raises(ModelError, match="no such model"):
        draw(prompts(4), tmp_path / "out", RefusingOpener(), 2)


def test_another_request_is_refused_before_a_worker_starts(tmp_path):
    draw(prompts(2), tmp_path / "out", Opener(tmp_path), 1)
    with pytest.raises(DataError, match="num_completions: 3 there, 4 now"):
        draw(prompts(2), tmp_path / "out", Opener(tmp_path), 1, num_completions=4)


VICTIM = textwrap.dedent(
    """
    import sys
    from pathlib import Path

    sys.path.insert(0, sys.argv[4])
    from scripted_workers import SlowOpener, draw, prompts

    if __name__ == "__main__":
        draw(prompts(40), sys.argv[1], SlowOpener(Path(sys.argv[2])), int(sys.argv[3]), num_completions=5)
    """
)


def finished_in(out: Path) -> set[tuple[str, int]]:
    whole = b"".join(path.read_bytes().rpartition(b"\n")[0] + b"\n" for path in (out / "journal").glob("*.jsonl"))
    return {(row["prompt_id"], row["sample_index"]) for row in map(json.loads, filter(None, whole.splitlines()))}


@pytest.mark.slow
def test_a_killed_parent_takes_its_workers_along_and_their_number_may_change(tmp_path):
    script = tmp_path / "victim.py"
    script.write_text(VICTIM)
    calls = tmp_path / "calls"
    for num_workers in (2, 3, 1):
        done = finished_in(tmp_path / "out")
        calls.write_text("")
        here = str(Path(__file__).parent)
        arguments = [str(script), str(tmp_path / "out"), str(tmp_path), str(num_workers), here]
        process = subprocess.Popen([sys.executable, *arguments])
        while process.poll() is None and len(calls.read_text().splitlines()) < 10:
            time.sleep(0.02)
        process.kill()
        process.wait()
        assert not set(calls_in(tmp_path)) & done
    assert not (tmp_path / "out/summary.json").exists(), "the kills came too late to test anything"
    done = finished_in(tmp_path / "out")
    calls.write_text("")
    summary = draw(prompts(40), tmp_path / "out", Opener(tmp_path), 2, num_completions=5)
    assert summary.num_completions == 200
    rows = read_rows(tmp_path / "out/completions.jsonl")
    names = [(row["prompt_id"], row["sample_index"]) for row in rows]
    assert names == [(f"q{i}", k) for i in range(40) for k in range(5)]
    assert len(calls_in(tmp_path)) <= 200 - len(done)
