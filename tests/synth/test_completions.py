"""K samples of every prompt exactly once: order, rejects, resuming, refusing, and kills at any time."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from posttrain.core.chat import encode_prompt, load_tokenizer, stop_ids
from posttrain.core.errors import DataError, StorageError
from posttrain.core.files import read_rows, write_jsonl
from synth.completions import sample_completions
from synth.engines.base import EngineError, SamplingParams, refused_sample, sample_seed
from synth.engines.scripted import ScriptedEngine
from synth.engines.transformers import TransformersEngine

PARAMS = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_completion_tokens=8, stop_ids=())


def echo(request, sample_index, seed):
    return f"{request.messages[-1]['content']} {sample_index} {seed % 100}"


def prompts(count):
    return [{"prompt": f"question {i}", "id": f"q{i}", "reference": i} for i in range(count)]


def sample(rows, engine, out, num_completions=3, params=PARAMS, **changes):
    return sample_completions(rows, engine, None, num_completions, params, 7, out, **changes)


def test_rows_are_those_of_the_interface(tmp_path):
    sample(prompts(2), ScriptedEngine(echo, model="weights"), tmp_path, num_completions=2)
    rows = read_rows(tmp_path / "completions.jsonl")
    assert [(row["prompt_id"], row["sample_index"]) for row in rows] == [("q0", 0), ("q0", 1), ("q1", 0), ("q1", 1)]
    seed = sample_seed(7, "q1", 0)
    assert rows[2] == {
        "prompt_id": "q1",
        "sample_index": 0,
        "prompt": [{"role": "user", "content": "question 1"}],
        "completion": [{"role": "assistant", "content": f"question 1 0 {seed % 100}"}],
        "finish_reason": "stop",
        "num_tokens": 4,
        "seed": seed,
        "model": "weights",
        "id": "q1",
        "reference": 1,
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "completions.jsonl",
        "rejects.jsonl",
        "request.json",
        "summary.json",
    ]


def test_the_summary_counts_by_hand(tmp_path):
    nine_words = "one two three four five six seven eight nine"
    answers = {"q0": ["a", "a", "a"], "q1": ["a b", "c", "c"], "q2": [nine_words] * 3}
    engine = ScriptedEngine(lambda request, index, seed: answers[request.key][index])
    summary = sample([*prompts(3), {"prompt": ""}], engine, tmp_path)
    assert (summary.num_prompts, summary.num_rejects, summary.num_completions) == (4, 1, 9)
    assert summary.num_tokens == 3 + 4 + 24
    assert summary.truncated_share == 3 / 9
    assert summary.distinct_share == {"mean": pytest.approx((1 / 3 + 2 / 3 + 1 / 3) / 3), "least": 1 / 3}
    assert summary.identical_prompts == 2
    assert summary.flags == [
        "2 of 3 prompts have 3 identical samples at temperature 1.0",
        "3 of 9 completions were cut at max_completion_tokens",
    ]
    assert summary.sampling["temperature"] == 1.0 and summary.sampling["engine_kind"] == "scripted"
    stored = json.loads((tmp_path / "summary.json").read_text())
    assert stored["num_completions"] == 9 and stored["sampling"]["seed"] == 7


def test_bad_rows_go_to_the_rejects_with_line_and_reason(tmp_path):
    lines = [
        '{"prompt": "good", "id": "g"}',
        "not json",
        "",
        '{"prompt": ""}',
        '{"prompt": "again", "id": "g"}',
        '{"prompt": [{"role": "assistant", "content": "hm"}]}',
        '{"prompt": "bad \\ud800 text"}',
        '{"prompt": "fine"}',
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(lines) + "\n")
    summary = sample(path, ScriptedEngine(echo), tmp_path / "out")
    rejects = read_rows(tmp_path / "out" / "rejects.jsonl")
    assert [reject["line"] for reject in rejects] == [2, 4, 5, 6, 7]
    assert "duplicate of line 1" in rejects[2]["reason"]
    rows = read_rows(tmp_path / "out" / "completions.jsonl")
    assert len(rows) / 3 + len(rejects) == 7 == summary.num_prompts


def test_prompts_without_room_are_rejected_and_the_rest_is_unaffected(tmp_path, tiny_model_dir):
    tokenizer = load_tokenizer(tiny_model_dir)
    rows = [{"prompt": "the cat"}, {"prompt": "the dog " * 130}, {"prompt": "the cat " * 10}]
    lengths = [len(encode_prompt(tokenizer, [{"role": "user", "content": row["prompt"]}])) for row in rows]
    params = SamplingParams(1.0, 1.0, 0, 8, tuple(stop_ids(tokenizer)))
    engine = TransformersEngine(tiny_model_dir)
    seen = []
    sample_completions(
        rows, engine, tokenizer, 2, params, 0, tmp_path / "context", progress=lambda *counts: seen.append(counts)
    )
    assert seen[-1] == (6, 6)
    rejects = read_rows(tmp_path / "context" / "rejects.jsonl")
    assert [(reject["line"], reject["reason"]) for reject in rejects] == [
        (2, f"too long: {lengths[1]} tokens, the limit is {256 - 8}")
    ]
    sample_completions(rows, engine, tokenizer, 2, params, 0, tmp_path / "limit", max_prompt_tokens=lengths[0])
    assert [reject["line"] for reject in read_rows(tmp_path / "limit" / "rejects.jsonl")] == [2, 3]
    alone = read_rows(tmp_path / "limit" / "completions.jsonl")
    assert alone == read_rows(tmp_path / "context" / "completions.jsonl")[:2]


def test_completions_that_fill_the_context_are_refused(tmp_path):
    with pytest.raises(DataError, match="max_completion_tokens is 8, but the model's context is 8"):
        sample(prompts(1), ScriptedEngine(echo, context_tokens=8), tmp_path)


def test_the_same_again_does_nothing(tmp_path):
    first = sample(prompts(4), ScriptedEngine(echo), tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    engine = ScriptedEngine(echo)
    assert sample(prompts(4), engine, tmp_path) == first
    assert engine.calls == [] and engine.params == []
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_versions_are_reported_and_bind_nobody(tmp_path):
    """Neither another version nor a folder that is older than the field is another request."""
    first = sample(prompts(2), ScriptedEngine(echo), tmp_path)
    assert list(first.versions) == ["posttrain"]
    stored = json.loads((tmp_path / "summary.json").read_text())
    (tmp_path / "summary.json").write_text(json.dumps({**stored, "versions": {"posttrain": "0.0.1"}}))
    assert sample(prompts(2), ScriptedEngine(echo), tmp_path).versions == {"posttrain": "0.0.1"}
    del stored["versions"]
    (tmp_path / "summary.json").write_text(json.dumps(stored))
    assert sample(prompts(2), ScriptedEngine(echo), tmp_path).versions == {}


def test_another_request_into_the_same_folder_is_refused_and_named(tmp_path):
    sample(prompts(2), ScriptedEngine(echo), tmp_path)
    hotter = SamplingParams(1.3, 1.0, 0, 8, ())
    with pytest.raises(DataError, match=r"temperature: 1\.0 there, 1\.3 now"):
        sample(prompts(2), ScriptedEngine(echo), tmp_path, params=hotter)
    with pytest.raises(DataError, match="model: 'scripted' there, 'other' now"):
        sample(prompts(2), ScriptedEngine(echo, model="other"), tmp_path)
    with pytest.raises(DataError, match=r"\(prompts: "):
        sample(prompts(3), ScriptedEngine(echo), tmp_path)


class Stop(Exception):
    """End the engine in the middle, as a crash would."""


def failing_after(count):
    seen = []

    def answer(request, sample_index, seed):
        if len(seen) == count:
            raise Stop
        seen.append(request.key)
        return echo(request, sample_index, seed)

    return answer


def test_a_resumed_run_asks_for_what_is_missing_only(tmp_path):
    with pytest.raises(Stop):
        sample(prompts(5), ScriptedEngine(failing_after(7)), tmp_path / "a")
    with (tmp_path / "a/journal/samples.jsonl").open("a") as file:
        file.write('{"prompt_id": "q2", "sample_ind')  # torn by a kill
    engine = ScriptedEngine(echo)
    summary = sample(prompts(5), engine, tmp_path / "a")
    assert engine.calls == [(f"q{n // 3}", n % 3) for n in range(7, 15)]
    assert summary.session_tokens == 8 * 4
    sample(prompts(5), ScriptedEngine(echo), tmp_path / "b")
    assert (tmp_path / "a/completions.jsonl").read_bytes() == (tmp_path / "b/completions.jsonl").read_bytes()


def test_an_engine_that_loses_samples_is_noticed(tmp_path):
    class Lossy(ScriptedEngine):
        def generate(self, requests, params):
            yield from list(super().generate(requests, params))[:-1]

    with pytest.raises(EngineError, match="samples of 1 prompts are missing, the first is 'q1'"):
        sample(prompts(2), Lossy(echo), tmp_path)
    assert not (tmp_path / "completions.jsonl").exists()


def test_refused_requests_become_rejects_and_stay_refused(tmp_path):
    class Picky(ScriptedEngine):
        def generate(self, requests, params):
            taken = [request for request in requests if request.key != "q1"]
            yield from super().generate(taken, params)
            (picked,) = [request for request in requests if request.key == "q1"]
            yield from (refused_sample(picked, place, "content filter") for place in range(len(picked.seeds)))

    summary = sample(prompts(3), Picky(echo), tmp_path)
    assert (summary.num_rejects, summary.num_completions) == (1, 6)
    assert read_rows(tmp_path / "rejects.jsonl") == [{"line": 2, "prompt_id": "q1", "reason": "content filter"}]


def test_progress_counts_what_was_there_before(tmp_path):
    with pytest.raises(Stop):
        sample(prompts(5), ScriptedEngine(failing_after(7)), tmp_path)
    seen = []
    sample(prompts(5), ScriptedEngine(echo), tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (8, 15) and seen[-1] == (15, 15)


def test_progress_counts_refused_prompts_as_done(tmp_path):
    class Picky(ScriptedEngine):
        """Answer q1 once, then refuse it."""

        def generate(self, requests, params):
            for sample in super().generate(requests, params):
                if sample.key != "q1" or sample.sample_index == 0:
                    yield sample
                else:
                    yield replace(sample, finish_reason="refused", text="content filter")

    write_jsonl(tmp_path / "journal/samples.jsonl", [{"prompt_id": "q0", "reason": "refused before"}])
    seen = []
    sample(prompts(4), Picky(echo), tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (3 + 1, 12)  # those of q0, and the first of q1
    assert seen[-1] == (3 + 1 + 3 + 3 + 2, 12)  # then those of q2 and q3, and the other two of q1


def test_a_full_disk_is_a_clear_error_and_the_journal_stays_good(tmp_path, monkeypatch):
    real_write, room = os.write, [2000]

    def small_disk(descriptor, data):
        if room[0] <= 0:
            raise OSError(28, "No space left on device")
        written = real_write(descriptor, bytes(data)[: room[0]])
        room[0] -= written
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", small_disk)
        with pytest.raises(StorageError, match="no room"):
            sample(prompts(50), ScriptedEngine(echo), tmp_path)
    kept = len(read_rows(tmp_path / "journal/samples.jsonl"))
    assert kept > 0
    engine = ScriptedEngine(echo)
    summary = sample(prompts(50), engine, tmp_path)
    assert summary.num_completions == 150 and len(engine.calls) == 150 - kept


VICTIM = textwrap.dedent(
    """
    import sys, time
    from synth.completions import sample_completions
    from synth.engines.base import SamplingParams
    from synth.engines.scripted import ScriptedEngine

    out, calls = sys.argv[1:]
    log = open(calls, "a", buffering=1)

    def answer(request, sample_index, seed):
        time.sleep(0.002)
        log.write(f"{request.key} {sample_index}\\n")
        return f"{request.key} {sample_index} {seed}"

    rows = [{"prompt": f"question {i}", "id": f"q{i}"} for i in range(150)]
    params = SamplingParams(1.0, 1.0, 0, 8, ())
    sample_completions(rows, ScriptedEngine(answer), None, 5, params, 0, out)
    """
)


def journal_names(out: Path) -> list[tuple[str, int]]:
    path = out / "journal/samples.jsonl"
    if not path.is_file():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0].splitlines()
    return [(row["prompt_id"], row["sample_index"]) for row in map(json.loads, whole)]


@pytest.mark.slow
def test_twenty_kills_lose_nothing_and_repeat_nothing(tmp_path):
    out, calls = tmp_path / "out", tmp_path / "calls"
    draw = random.Random(0)
    for _ in range(20):
        done = set(journal_names(out))
        calls.write_text("")
        process = subprocess.Popen([sys.executable, "-c", VICTIM, str(out), str(calls)])
        while process.poll() is None and not calls.read_text():
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        process.wait()
        asked = {(key, int(index)) for key, index in map(str.split, calls.read_text().splitlines())}
        assert not asked & done, "a finished sample was asked for again"
        assert done <= set(journal_names(out)) or (out / "summary.json").exists()
    assert not (out / "summary.json").exists(), "the kills came too late to test anything"
    assert subprocess.run([sys.executable, "-c", VICTIM, str(out), str(calls)], check=True).returncode == 0
    rows = read_rows(out / "completions.jsonl")
    names = [(row["prompt_id"], row["sample_index"]) for row in rows]
    assert names == [(f"q{i}", k) for i in range(150) for k in range(5)]
    assert all(row["completion"][0]["content"].split()[2] == str(row["seed"]) for row in rows)
