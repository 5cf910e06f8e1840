"""The start-up check of engines that run elsewhere: a server and a stand-in for vLLM, with right and wrong weights."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import pytest
import torch
from faulty_server import FaultyServer

from posttrain.cli import main
from posttrain.core.chat import load_tokenizer, stop_ids
from posttrain.core.models import load_causal_lm
from synth.completions import sample_completions
from synth.engines import handshake
from synth.engines.base import EngineError, Request, SamplingParams
from synth.engines.openai import OpenAIEngine
from synth.engines.transformers import TransformersEngine
from synth.engines.vllm import VllmEngine

PARAMS = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_completion_tokens=4, stop_ids=())
REQUEST = Request("p", (2, 4, 9), ({"role": "user", "content": "question"},), seeds=(1, 2), sample_indices=(0, 1))


@pytest.fixture(scope="module")
def served(tiny_model_dir):
    """Ten lines of float64 in the server's place: log-probs of each token after those before it."""
    model = load_causal_lm(tiny_model_dir).double()

    @torch.inference_mode()
    def logprobs_of(ids, noise=0.0):
        logits = model(torch.tensor([ids])).logits[0, :-1]
        logits = logits + noise * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
        picked = logits.log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
        return [None, *picked.tolist()]

    return logprobs_of


def open_engine(server, folder, **changes):
    settings = {"max_retries": 1, "first_backoff_s": 0.01, "local_copy": folder, **changes}
    return OpenAIEngine(server.url, "tiny", **settings)


def test_a_server_with_the_weights_of_the_copy_is_checked_once(served, tiny_model_dir, tmp_path):
    with FaultyServer(logprobs_of=served) as server:
        engine = open_engine(server, tiny_model_dir)
        assert len(list(engine.generate([REQUEST], PARAMS))) == 2
        summary = sample_completions([{"prompt": "question"}], engine, None, 2, PARAMS, 0, tmp_path)
    assert engine.probe.checked and 0 <= engine.probe.difference < 1e-5 and engine.probe.reason is None
    assert summary.probe == {"checked": True, "difference": engine.probe.difference, "reason": None}
    (probe,) = [body for body in server.bodies if "prompt" in body]
    assert {key: probe[key] for key in probe if key != "prompt"} == {
        **{"model": "tiny", "max_tokens": 1, "temperature": 0.0, "echo": True, "logprobs": 1}
    }
    assert server.bodies[0] is probe and len(server.bodies) == 5


def test_a_server_with_other_weights_is_refused_before_a_sample_is_drawn(served, tiny_model_dir, tmp_path):
    with FaultyServer(logprobs_of=lambda ids: served(ids, noise=0.5)) as server:
        engine = open_engine(server, tiny_model_dir)
        with pytest.raises(
            EngineError, match=r"differ from those of .* by 0\.\d+ nats .*limit 0\.0\d+, measured.*these weights"
        ):
            sample_completions([{"prompt": "question"}], engine, None, 2, PARAMS, 0, tmp_path)
        assert len(server.bodies) == 1
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize(
    ("fault", "offers", "reason"),
    [
        (None, False, "with status 404"),
        ("400", True, "with status 400"),
        ("no echo", True, "no log-probs of the prompt"),
        ("no logprobs", True, "no log-probs of the prompt"),
        ("holes", True, "some of the tokens only"),
    ],
)
def test_a_server_that_gives_no_logprobs_of_a_prompt_goes_unchecked_and_says_so(
    fault, offers, reason, served, tiny_model_dir, tmp_path
):
    def first(number, body):
        return fault if number == 0 else None

    with FaultyServer(first, served if offers else None) as server:
        engine = open_engine(server, tiny_model_dir)
        summary = sample_completions([{"prompt": "question"}], engine, None, 2, PARAMS, 0, tmp_path)
    assert summary.num_completions == 2
    assert (summary.probe["checked"], summary.probe["difference"]) == (False, None)
    assert reason in summary.probe["reason"]


def test_a_server_that_cannot_be_reached_for_the_check_is_an_error_and_passing_faults_are_not(served, tiny_model_dir):
    with (
        FaultyServer(lambda number, body: "503" if "prompt" in body else None, served) as server,
        pytest.raises(EngineError, match=r"could not be got \(status 503\)"),
    ):
        list(open_engine(server, tiny_model_dir, max_retries=0).generate([REQUEST], PARAMS))
    with FaultyServer(lambda number, body: "503" if number == 0 else None, served) as server:
        engine = open_engine(server, tiny_model_dir)
        assert len(list(engine.generate([REQUEST], PARAMS))) == 2 and engine.probe.checked


def test_without_a_copy_nothing_is_asked():
    with FaultyServer() as server:
        engine = open_engine(server, None)
        assert len(list(engine.generate([REQUEST], PARAMS))) == 2
    assert engine.probe.reason == "no local copy of the model was named" and len(server.bodies) == 2


def test_weights_that_would_fill_the_memory_are_not_loaded(served, tiny_model_dir, monkeypatch):
    monkeypatch.setattr(handshake, "MEMORY_SHARE", 0.0)
    monkeypatch.setattr(handshake, "load_causal_lm", lambda *_: pytest.fail("loaded"))
    with FaultyServer(logprobs_of=served) as server:
        engine = open_engine(server, tiny_model_dir)
        assert len(list(engine.generate([REQUEST], PARAMS))) == 2
    assert "more than half of this machine's memory" in engine.probe.reason and len(server.bodies) == 2


def test_the_embedded_engine_reports_its_own_check(tiny_model_dir, tmp_path):
    tokenizer = load_tokenizer(tiny_model_dir)
    params = SamplingParams(1.0, 1.0, 0, 4, tuple(stop_ids(tokenizer)))
    engine = TransformersEngine(tiny_model_dir)
    summary = sample_completions([{"prompt": "the cat"}], engine, tokenizer, 1, params, 0, tmp_path)
    assert summary.probe["checked"] and 0 <= summary.probe["difference"] < 1e-5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--engine", "scripted", "--unchecked"], "--unchecked belongs to --engine vllm, not scripted"),
        (["--engine", "transformers", "--unchecked"], "--unchecked belongs to --engine vllm, not transformers"),
        (["--engine", "scripted", "--local-copy", "x"], "--local-copy belongs to --engine openai"),
        (["--engine", "transformers", "--local-copy", "x"], "--local-copy belongs to --engine openai"),
        (["--engine", "openai", "--base-url", "http://127.0.0.1:1/v1", "--local-copy", "gone"], "gone"),
    ],
)
def test_options_of_the_check_belong_to_their_engines(options, said, tmp_path, capsys):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "question"}\n')
    numbers = ["--num-completions", "1", "--temperature", "1", "--max-completion-tokens", "4", "--seed", "0"]
    files = ["--model", "echo", "--prompts", str(tmp_path / "prompts.jsonl"), "--out", str(tmp_path / "out")]
    assert main(["sample", *files, *numbers, *options]) == 1
    assert said in capsys.readouterr().err


# ---------------------------------------------------------------- vLLM


@pytest.fixture
def fake_vllm(served, monkeypatch):
    """What the engine uses of vLLM: prompts as ids in; log-probs of the prompt, or tokens 5 and 6, out."""
    spec = ModuleSpec("vllm", None)
    module = SimpleNamespace(__version__="0.0", __spec__=spec, noise=0.0, logprobs=True, asked=[])

    class LLM:
        def __init__(self, **settings):
            module.asked.append("open")

        def generate(self, prompts, params, use_tqdm):
            return [self.answer(prompt["prompt_token_ids"], own) for prompt, own in zip(prompts, params, strict=True)]

        def answer(self, ids, params):
            module.asked.append(params)
            given = None
            if params.get("prompt_logprobs") and module.logprobs:
                values = zip(ids[1:], served(ids, module.noise)[1:], strict=True)
                given = [None, *({0: None, token: SimpleNamespace(logprob=value)} for token, value in values)]
            drawn = SimpleNamespace(token_ids=[5, 6], finish_reason="stop")
            return SimpleNamespace(prompt_token_ids=ids, prompt_logprobs=given, outputs=[drawn])

    module.LLM, module.SamplingParams = LLM, lambda **named: named
    monkeypatch.setitem(sys.modules, "vllm", module)
    return module


def test_vllm_is_checked_before_its_first_sample(fake_vllm, tiny_model_dir):
    engine = VllmEngine(tiny_model_dir, "float32")
    assert engine.probe is None
    assert [sample.ids for sample in engine.generate([REQUEST], PARAMS)] == [(5, 6)] * 2
    assert engine.probe.checked and 0 <= engine.probe.difference < 1e-5
    probed = {"n": 1, "temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 1, "detokenize": False}
    assert fake_vllm.asked[:2] == ["open", probed]
    list(engine.generate([REQUEST], PARAMS))
    assert len(fake_vllm.asked) == 2 + 2 + 2  # opened and checked once


def test_vllm_with_other_weights_is_refused(fake_vllm, tiny_model_dir):
    fake_vllm.noise = 0.5
    with pytest.raises(EngineError, match=r"log-probs of vLLM differ .* by 0\.\d+ nats"):
        list(VllmEngine(tiny_model_dir, "float32").generate([REQUEST], PARAMS))
    assert len(fake_vllm.asked) == 2
    engine = VllmEngine(tiny_model_dir, "float32", checked=False)
    assert len(list(engine.generate([REQUEST], PARAMS))) == 2
    assert engine.probe.reason == "it was not asked for"


def test_a_vllm_without_logprobs_of_a_prompt_goes_unchecked(fake_vllm, tiny_model_dir):
    fake_vllm.logprobs = False
    engine = VllmEngine(tiny_model_dir, "float32")
    assert len(list(engine.generate([REQUEST], PARAMS))) == 2
    assert engine.probe.reason == "vLLM returned no log-probs of the prompt"
