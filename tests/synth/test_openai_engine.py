"""The engine for OpenAI-compatible servers, against a server that goes wrong and against a real one."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from faulty_server import REPLIES, FaultyServer, answer

from posttrain.core.chat import load_tokenizer, stop_ids
from posttrain.core.files import read_rows
from synth.completions import sample_completions
from synth.engines.base import REFUSED, EngineError, Request, SamplingParams, sample_seed
from synth.engines.openai import OpenAIEngine
from synth.engines.transformers import TransformersEngine

PARAMS = SamplingParams(temperature=0.8, top_p=0.9, top_k=0, max_completion_tokens=16, stop_ids=())
KEY = "sk-very-secret-0123456789"
# Replies that would be the same if they were asked for again.
FINAL = ("no finish reason", "no usage")


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def make_requests(num_prompts, num_samples):
    return [
        Request(
            key=f"p{i}",
            prompt_ids=(),
            messages=({"role": "user", "content": f"question {i}"},),
            seeds=tuple(sample_seed(0, f"p{i}", k) for k in range(num_samples)),
            sample_indices=tuple(range(num_samples)),
        )
        for i in range(num_prompts)
    ]


def make_engine(server, **changes):
    settings = {"concurrency": 8, "timeout_s": 1.0, "max_retries": 6, "first_backoff_s": 0.01, **changes}
    return OpenAIEngine(server.url, "tiny", **settings)


def collect(engine, requests, params=PARAMS):
    samples = list(engine.generate(requests, params))
    names = [(sample.key, sample.sample_index) for sample in samples]
    assert len(set(names)) == len(names)
    return dict(zip(names, samples, strict=True))


def check_all_there(samples, requests):
    wanted = {(request.key, k) for request in requests for k in request.sample_indices}
    assert set(samples) == wanted
    for request in requests:
        for k, seed in zip(request.sample_indices, request.seeds, strict=True):
            asked = {"messages": list(request.messages), "seed": seed & 0x7FFFFFFF}
            assert samples[request.key, k].text == answer(asked)
            assert samples[request.key, k].seed == seed


def test_every_parameter_is_explicit_and_each_sample_has_its_seed():
    requests = make_requests(2, 3)
    with FaultyServer() as server:
        check_all_there(collect(make_engine(server), requests), requests)
    assert len({body["seed"] for body in server.bodies}) == 6
    body = server.bodies[0]
    assert {key: body[key] for key in body if key not in ("seed", "messages")} == {
        "model": "tiny",
        "temperature": 0.8,
        "top_p": 0.9,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "max_tokens": 16,
    }


def test_openai_itself_gets_no_parameter_it_would_refuse():
    requests = make_requests(1, 1)
    with FaultyServer() as server:
        collect(make_engine(server, dialect="openai"), requests)
        assert set(server.bodies[0]) == {"model", "messages", "temperature", "top_p", "seed", "max_completion_tokens"}
        with pytest.raises(EngineError, match="top_k is 5"):
            collect(make_engine(server, dialect="openai"), requests, SamplingParams(1.0, 1.0, 5, 4, ()))
    assert OpenAIEngine("https://api.openai.com/v1", "m").dialect == "openai"


def test_one_in_ten_requests_fails_and_nothing_is_lost_or_twice():
    faults = ["500", "429", "503", "truncated", "truncated json", "hang up", "two choices", "no choices", "stall"]

    def fault(number, body):
        return faults[number // 10 % len(faults)] if number % 10 == 3 else None

    requests = make_requests(40, 5)
    with FaultyServer(fault) as server:
        check_all_there(collect(make_engine(server, concurrency=16, timeout_s=2.5), requests), requests)
    assert server.most_under_way <= 16
    asked = Counter((body["messages"][-1]["content"], body["seed"]) for body in server.answered)
    # A good answer is never asked for again.
    assert max(asked.values()) == 1 and len(asked) == 200
    assert len(server.bodies) > 215


def test_answers_in_another_order_and_doubled_ones_find_their_requests():
    """Every other reply is late, so that replies overtake each other; some carry their answer twice."""
    requests = make_requests(10, 3)

    def fault(number, body):
        return "slow" if number % 2 else "two choices" if number % 5 == 4 else None

    with FaultyServer(fault) as server:
        samples = list(make_engine(server).generate(requests, PARAMS))
        check_all_there({(sample.key, sample.sample_index): sample for sample in samples}, requests)
    order = [(sample.key, sample.sample_index) for sample in samples]
    assert len(order) == 30 and order != sorted(order)


@pytest.mark.parametrize("fault", sorted(set(REPLIES) - {"filtered", "cut", "empty", "no content", *FINAL}))
def test_a_reply_that_makes_no_sense_is_asked_again(fault):
    requests = make_requests(1, 2)
    with FaultyServer(lambda number, body: fault if number < 3 else None) as server:
        check_all_there(collect(make_engine(server), requests), requests)
    assert len(server.bodies) == 5


def test_cut_and_empty_answers_are_samples():
    with FaultyServer(lambda number, body: ["cut", "empty"][number]) as server:
        samples = collect(make_engine(server, concurrency=1), make_requests(1, 2))
    assert [(sample.text, sample.finish_reason) for sample in samples.values()] == [
        ("cut answer", "length"),
        ("", "stop"),
    ]


def test_retry_after_is_kept_to():
    with FaultyServer(lambda number, body: "429" if number == 0 else None) as server:
        collect(make_engine(server), make_requests(1, 1))
    assert server.times[1] - server.times[0] >= 0.2


def test_a_prompt_that_is_refused_for_good_spoils_no_other(tmp_path):
    def fault(number, body):
        return {"question 1": "400", "question 2": "filtered"}.get(body["messages"][-1]["content"])

    with FaultyServer(fault) as server:
        engine = make_engine(server, concurrency=2)
        samples = collect(engine, make_requests(4, 2))
        assert {key for (key, _), sample in samples.items() if sample.finish_reason == REFUSED} == {"p1", "p2"}
        assert len(samples) == 8
        rows = [{"prompt": f"question {i}"} for i in range(4)]
        summary = sample_completions(rows, engine, None, 2, PARAMS, 0, tmp_path)
    assert (summary.num_completions, summary.num_rejects) == (4, 2)
    rejects = read_rows(tmp_path / "rejects.jsonl")
    assert [reject["line"] for reject in rejects] == [2, 3]
    assert "status 400" in rejects[0]["reason"] and "content filter" in rejects[1]["reason"]


def test_a_server_that_refuses_all_is_an_error_not_a_file_of_rejects():
    with (
        FaultyServer(lambda number, body: "400") as server,
        pytest.raises(EngineError, match=r"none of the first \d+ prompts was answered.*dialect is 'extended'"),
    ):
        collect(make_engine(server), make_requests(20, 1))
    assert len(server.bodies) < 20


def test_a_server_that_was_down_is_asked_again_by_the_next_call(tmp_path):
    ill = [True]
    rows = [{"prompt": f"question {i}"} for i in range(4)]
    with FaultyServer(lambda number, body: "500" if ill[0] and number else None) as server:
        engine = make_engine(server, max_retries=1, concurrency=1)
        with pytest.raises(EngineError, match="7 samples in a row could not be got.*status 500"):
            sample_completions(rows, engine, None, 2, PARAMS, 0, tmp_path)
        ill[0] = False
        before = len(server.bodies)
        summary = sample_completions(rows, engine, None, 2, PARAMS, 0, tmp_path)
        assert len(server.bodies) - before == 7
    assert (summary.num_completions, summary.num_rejects) == (8, 0)


def test_a_prompt_that_always_fails_is_a_reject_once_others_are_answered(tmp_path):
    rows = [{"prompt": f"question {i}"} for i in range(4)]

    def fault(number, body):
        return "500" if body["messages"][-1]["content"] == "question 1" else None

    with FaultyServer(fault) as server:
        summary = sample_completions(rows, make_engine(server, max_retries=1), None, 2, PARAMS, 0, tmp_path)
        # Two tries of two samples, and one request that shows the server to be well.
        assert len(server.bodies) <= 6 + 4 + 1
    assert (summary.num_completions, summary.num_rejects) == (6, 1)
    assert "status 500: fault 500" in read_rows(tmp_path / "rejects.jsonl")[0]["reason"]


def test_a_server_that_is_down_ends_soon():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    engine = OpenAIEngine(url, "tiny", concurrency=4, max_retries=1, first_backoff_s=0.01)
    with pytest.raises(EngineError, match=r"\d+ samples in a row could not be got.*is the server up"):
        collect(engine, make_requests(1000, 1))


def test_leaving_early_stops_the_requests():
    with FaultyServer(lambda number, body: "slow") as server:
        samples = make_engine(server, concurrency=2).generate(make_requests(500, 1), PARAMS)
        next(samples)
        samples.close()
        assert len(server.bodies) < 20


def test_the_key_comes_from_the_environment_and_shows_nowhere(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MY_KEY", KEY)
    rows = [{"prompt": "question 0"}, {"prompt": "question 1"}]
    with FaultyServer(lambda number, body: "422" if "1" in body["messages"][-1]["content"] else None) as server:
        engine = make_engine(server, api_key_env="MY_KEY", concurrency=1)
        sample_completions(rows, engine, None, 1, PARAMS, 0, tmp_path)
        assert set(server.keys) == {f"Bearer {KEY}"}
        with FaultyServer(lambda number, body: "401") as locked, pytest.raises(EngineError) as error:
            collect(make_engine(locked, api_key_env="MY_KEY"), make_requests(1, 1))
    assert "the environment variable MY_KEY" in str(error.value) and "***" in str(error.value)
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "status 422" in written
    for text in (written, str(error.value), caplog.text, repr(vars(engine))):
        assert KEY not in text
    with pytest.raises(EngineError, match="put the key into the environment"):
        OpenAIEngine(f"http://user:{KEY}@127.0.0.1/v1", "tiny")


@contextmanager
def transformers_serve(model_dir: Path, log: Path):
    """Run `transformers serve` on loopback until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model_dir)]
    arguments = ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, *arguments], stdout=output, stderr=output, env={**os.environ, "HF_HUB_OFFLINE": "1"}
        )
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                    break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(timeout=120)


serving_is_missing = importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("uvicorn") is None


@pytest.mark.slow
@pytest.mark.skipif(serving_is_missing, reason="needs the serving extra: pip install 'posttrain[serving]'")
def test_a_real_server_answers_as_the_embedded_engine_does(tiny_model_dir, tmp_path):
    tokenizer = load_tokenizer(tiny_model_dir)
    greedy = SamplingParams(0.0, 1.0, 0, 6, tuple(stop_ids(tokenizer)))
    warm = SamplingParams(1.0, 1.0, 0, 6, tuple(stop_ids(tokenizer)))
    rows = [{"prompt": f"say {word}"} for word in ("cat", "dog", "bird")]
    with transformers_serve(tiny_model_dir, tmp_path / "log") as url:
        settings = {"concurrency": 2, "dialect": "transformers", "local_copy": tiny_model_dir}
        engine = OpenAIEngine(url, str(tiny_model_dir), **settings)
        sample_completions(rows, engine, None, 1, greedy, 0, tmp_path / "greedy")
        sample_completions(rows, engine, None, 4, warm, 0, tmp_path / "warm")
    sample_completions(rows, TransformersEngine(tiny_model_dir), tokenizer, 1, greedy, 0, tmp_path / "own")
    served, own = (read_rows(tmp_path / name / "completions.jsonl") for name in ("greedy", "own"))
    assert [row["completion"] for row in served] == [row["completion"] for row in own]
    assert [row["num_tokens"] for row in served] == [row["num_tokens"] for row in own]
    assert [row["finish_reason"] for row in served] == [row["finish_reason"] for row in own]
    # This server gives no log-probs of a prompt, which is no reason to stop.
    assert engine.probe is not None and not engine.probe.checked and engine.probe.reason
    samples = read_rows(tmp_path / "warm/completions.jsonl")
    assert len(samples) == 12
    assert json.loads((tmp_path / "warm/summary.json").read_text())["distinct_share"]["least"] > 0.5
