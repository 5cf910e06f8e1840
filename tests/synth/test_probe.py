"""The start-up check: the engine decodes what a plain forward pass computes, or refuses."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, MistralConfig, Qwen3Config

from posttrain.core.chat import load_tokenizer
from posttrain.core.models import load_causal_lm
from synth.engines.base import EngineError
from synth.engines.probe import choose_attention, probe_difference, take_probe
from synth.engines.step import ATTENTION
from synth.engines.transformers import TransformersEngine

SIZE = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}


@pytest.fixture
def model_and_tokenizer(tiny_model_dir):
    return load_causal_lm(tiny_model_dir), load_tokenizer(tiny_model_dir)


def test_decoding_agrees_with_a_plain_pass(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    probe = take_probe(model, tokenizer)
    assert len(probe.completion) > 8
    choose_attention(model, probe, "tiny")
    assert model.config._attn_implementation == ATTENTION
    assert probe_difference(model, probe) < 1e-5


def test_weights_that_are_not_those_of_the_probe_are_refused(model_and_tokenizer):
    """What an engine with stale weights, or a wrong cache, looks like."""
    model, tokenizer = model_and_tokenizer
    probe = take_probe(model, tokenizer)
    noise = torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.lm_head.weight.add_(0.05 * noise)
    with pytest.raises(EngineError, match=r"differ from a plain forward pass by 0\.\d+ nats .*limit 0\.001"):
        choose_attention(model, probe, "tiny")


def test_the_limit_is_measured_from_the_weights_own_rounding(tiny_model_dir, model_and_tokenizer):
    exact = take_probe(*model_and_tokenizer)
    model = load_causal_lm(tiny_model_dir, dtype="bfloat16")
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    probe = take_probe(model, model_and_tokenizer[1])
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert all(weight.equal(before[name]) for name, weight in model.named_parameters())
    assert exact.rounding == 0.0 < probe.rounding < 0.1 and exact.limit < probe.limit
    rounded_weights = load_causal_lm(tiny_model_dir, dtype="bfloat16").float()
    assert probe.logprobs_T.sub(take_probe(rounded_weights, model_and_tokenizer[1]).logprobs_T).abs().max() < 1e-4
    choose_attention(model, probe, "tiny")
    with pytest.raises(EngineError, match="set dtype float32"):
        choose_attention(model, dataclasses.replace(probe, logprobs_T=probe.logprobs_T + 3 * probe.limit), "tiny")


@pytest.mark.parametrize(
    ("config", "over_slots"),
    [
        (Qwen3Config(**SIZE, **HEADS), True),
        (MistralConfig(**SIZE, **HEADS, sliding_window=None), True),
        (MistralConfig(**SIZE, **HEADS, sliding_window=12), False),
        (Gemma2Config(**SIZE, **HEADS, sliding_window=12), False),
    ],
    ids=["qwen3", "mistral", "mistral with a window", "gemma2"],
)
def test_windows_and_caps_go_the_models_own_way(config, over_slots, tiny_tokenizer, tmp_path):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    model, _ = TransformersEngine(tmp_path)._load()
    assert (model.config._attn_implementation == ATTENTION) is over_slots
