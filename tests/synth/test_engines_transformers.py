"""The embedded engine: exact distributions, the same sample in any batch, greedy as generate() does it."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter

import pytest
import torch
from scipy.stats import chisquare
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    MambaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen3Config,
)

from posttrain.core.errors import ModelError
from synth.engines.base import Request, Sample, SamplingParams, sample_seed
from synth.engines.running import context_of
from synth.engines.transformers import TransformersEngine, plan_batches

VOCABULARY = 48
STOPS = (6, 7)


def make_requests(num_prompts=12, num_samples=3, longest=40, vocabulary=VOCABULARY, seed=0):
    draw = random.Random(seed)
    return [
        Request(
            key=f"p{i}",
            prompt_ids=tuple(draw.randrange(8, vocabulary) for _ in range(draw.randint(1, longest))),
            messages=(),
            seeds=tuple(sample_seed(seed, f"p{i}", k) for k in range(num_samples)),
            sample_indices=tuple(range(num_samples)),
        )
        for i in range(num_prompts)
    ]


def params(temperature=1.0, top_p=1.0, top_k=0, max_completion_tokens=12, stop_ids=STOPS) -> SamplingParams:
    return SamplingParams(temperature, top_p, top_k, max_completion_tokens, stop_ids)


def collect(engine: TransformersEngine, requests, sampling) -> dict[tuple[str, int], Sample]:
    samples = list(engine.generate(requests, sampling))
    by_id = {(sample.key, sample.sample_index): sample for sample in samples}
    assert len(by_id) == len(samples)
    return by_id


@torch.inference_mode()
def plain_generate(model: PreTrainedModel, prompt_ids, sampling: SamplingParams) -> tuple[int, ...]:
    ids = torch.tensor([prompt_ids])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=sampling.max_completion_tokens,
        eos_token_id=list(sampling.stop_ids),
        pad_token_id=0,
    )
    return tuple(output[0, ids.shape[1] :].tolist())


def folder_with(config, tiny_tokenizer, folder):
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def test_greedy_equals_generate_token_by_token(tiny_model_dir):
    requests = make_requests(num_samples=1)
    sampling = params(temperature=0.0)
    samples = collect(TransformersEngine(tiny_model_dir), requests, sampling)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()
    for request in requests:
        assert samples[request.key, 0].ids == plain_generate(model, request.prompt_ids, sampling)


SMALL = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SMALL, **HEADS, sliding_window=10),
        Qwen3Config(**SMALL, **HEADS),
        Gemma2Config(**SMALL, **HEADS, sliding_window=10),
        Gemma3TextConfig(
            **SMALL, **HEADS, sliding_window=10, layer_types=["sliding_attention", "full_attention"] * 2
        ),
    ],
    ids=lambda config: config.model_type,
)
def test_other_architectures_sample_greedily_as_generate_does(config, tiny_tokenizer, tmp_path):
    folder = folder_with(config, tiny_tokenizer, tmp_path)
    requests = make_requests(num_prompts=6, num_samples=1)
    sampling = params(temperature=0.0, max_completion_tokens=16)
    samples = collect(TransformersEngine(folder), requests, sampling)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    for request in requests:
        assert samples[request.key, 0].ids == plain_generate(model, request.prompt_ids, sampling)


LEARNED = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": None, "eos_token_id": None}


@pytest.mark.parametrize("context", [50, 10])
def test_prompts_up_to_the_end_of_a_table_of_positions_are_sampled(context, tiny_tokenizer, tmp_path):
    """A prompt of 49 tokens is prefilled 64 wide, the probe of a context of 10 is 16 wide; the tables end before."""
    folder = folder_with(GPT2Config(**LEARNED, n_positions=context), tiny_tokenizer, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    for num_prompt, num_drawn in ((context - 1, 1), (context - 6, 6), (3, context - 3)):
        draw = random.Random(num_prompt)
        request = Request("p", tuple(draw.randrange(8, VOCABULARY) for _ in range(num_prompt)), (), (0,), (0,))
        sampling = params(temperature=0.0, max_completion_tokens=num_drawn, stop_ids=(95,))
        samples = collect(TransformersEngine(folder), [request], sampling)
        assert samples["p", 0].ids == plain_generate(model, request.prompt_ids, sampling)


def test_a_model_without_key_value_cache_is_refused(tiny_tokenizer, tmp_path):
    folder = folder_with(MambaConfig(**SMALL), tiny_tokenizer, tmp_path)
    with pytest.raises(ModelError, match="'mamba' has layers of type linear_attention"):
        TransformersEngine(folder)


OTHER_DRAWS = [params(temperature=0.7, top_p=0.9), params(top_k=5)]


@pytest.mark.parametrize(
    "sampling", [params(), *(pytest.param(drawn, marks=pytest.mark.slow) for drawn in OTHER_DRAWS)], ids=str
)
def test_a_sample_does_not_depend_on_its_batch(tiny_model_dir, sampling):
    requests = make_requests(num_prompts=14, num_samples=5)
    reference = collect(TransformersEngine(tiny_model_dir), requests, sampling)
    assert len(reference) == 70
    for max_batch_tokens in (1, 300, 2500):
        shuffled = random.Random(max_batch_tokens).sample(requests, len(requests))
        engine = TransformersEngine(tiny_model_dir, max_batch_tokens=max_batch_tokens)
        assert collect(engine, shuffled, sampling) == reference
    alone: dict[tuple[str, int], Sample] = {}
    engine = TransformersEngine(tiny_model_dir)
    for request in requests[:5]:
        for k in range(5):
            one = Request(request.key, request.prompt_ids, (), (request.seeds[k],), (k,))
            alone |= collect(engine, [one], sampling)
    assert alone == {name: reference[name] for name in alone}


@pytest.mark.slow
def test_long_samples_do_not_depend_on_their_batch(tiny_tokenizer, tmp_path):
    """Grouped heads, several runs of ages, rows that are arranged anew: the same bits, in one worker or many shards."""
    folder = folder_with(Qwen3Config(**SMALL, **{**HEADS, "max_position_embeddings": 512}), tiny_tokenizer, tmp_path)
    requests = make_requests(num_prompts=8, num_samples=6, longest=70)
    sampling = params(max_completion_tokens=200, stop_ids=(6, 7))
    reference = collect(TransformersEngine(folder), requests, sampling)
    lengths = [len(sample.ids) for sample in reference.values()]
    assert min(lengths) < 64 and max(lengths) > 128
    engine = TransformersEngine(folder, max_batch_tokens=4000)  # 14 to 16 rows at a time
    assert collect(engine, requests[::-1], sampling) == reference
    parts = [slice(0, 1), slice(3, 6), slice(1, 3)]  # as after kills: some samples of a prompt are there already
    for request in requests[:2]:
        shards: dict[tuple[str, int], Sample] = {}
        for part in parts:
            one = Request(request.key, request.prompt_ids, (), request.seeds[part], request.sample_indices[part])
            shards |= collect(engine, [one], sampling)
        assert shards == {name: reference[name] for name in shards}


def test_slots_and_prompt_places_share_the_budget():
    def asked(num_prompts, prompt_tokens, num_samples):
        return [
            Request(f"p{i}", (9,) * prompt_tokens, (), tuple(range(num_samples)), tuple(range(num_samples)))
            for i in range(num_prompts)
        ]

    # One sample a prompt: a row takes 512 + 2,048 columns, and 32,768 hold 12.
    (plan,) = plan_batches(asked(40, 2048, 1), max_completion_tokens=512, max_batch_tokens=32768)
    assert (plan.num_slots, plan.num_prompts) == (12, 12)
    # Eight samples: 64 columns and two eighths of 128; 341 rows, and places for twice the prompts that they make.
    (plan,) = plan_batches(asked(100, 128, 8), max_completion_tokens=64, max_batch_tokens=32768)
    assert (plan.num_slots, plan.num_prompts) == (341, 87)
    # Long prompts do not take the short ones' rows: 20,000 tokens stand apart from 20.
    long, short = plan_batches(asked(2, 20_000, 8) + asked(9, 20, 8), max_completion_tokens=64, max_batch_tokens=32768)
    assert len(long.requests) == 2 and len(short.requests) == 9 and short.num_slots == 72


def test_stretched_positions_bound_the_context():
    assert context_of(Qwen3Config(**SMALL, **HEADS)) == 256
    stretched = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 64}
    assert context_of(Qwen3Config(**SMALL, **HEADS, rope_parameters=stretched)) == 64


def test_samples_of_one_prompt_differ(tiny_model_dir):
    samples = collect(TransformersEngine(tiny_model_dir), make_requests(num_prompts=1, num_samples=20), params())
    assert len({sample.ids for sample in samples.values()}) == 20


def test_stops_at_any_stop_id_and_marks_what_was_cut(tiny_model_dir):
    sampling = params(stop_ids=tuple(range(0, VOCABULARY, 3)), max_completion_tokens=4)
    samples = collect(TransformersEngine(tiny_model_dir), make_requests(num_prompts=20), sampling).values()
    reasons = Counter(sample.finish_reason for sample in samples)
    assert set(reasons) == {"stop", "length"}
    for sample in samples:
        assert sample.ids is not None
        assert sample.num_tokens == len(sample.ids)
        assert not set(sample.ids[:-1]) & set(sampling.stop_ids)
        ended = sample.ids[-1] in sampling.stop_ids
        assert sample.finish_reason == ("stop" if ended else "length")
        assert ended or len(sample.ids) == 4


def draws_of(prompt_ids, num_draws, seed) -> Request:
    seeds = tuple(sample_seed(seed, "p", k) for k in range(num_draws))
    return Request("p", prompt_ids, (), seeds, tuple(range(num_draws)))


def expected_first_token(model_dir, prompt_ids, sampling: SamplingParams) -> torch.Tensor:
    """Ten lines of float64: temperature, top-k, then the smallest set that reaches top-p."""
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(model_dir).eval()(torch.tensor([prompt_ids])).logits[0, -1]
    scores = logits.double() / sampling.temperature
    order = scores.argsort(descending=True)
    kept = order[: sampling.top_k] if sampling.top_k else order
    probs = scores[kept].softmax(-1)
    before = probs.cumsum(-1) - probs
    kept, probs = kept[before < sampling.top_p], probs[before < sampling.top_p]
    expected = torch.zeros_like(scores)
    expected[kept] = probs / probs.sum()
    return expected


@pytest.mark.parametrize(
    "sampling",
    [
        params(max_completion_tokens=1),
        params(temperature=0.3, max_completion_tokens=1),
        params(temperature=2.0, top_k=7, max_completion_tokens=1),
        params(temperature=0.5, top_p=0.8, max_completion_tokens=1),
        params(temperature=0.7, top_k=20, top_p=0.6, max_completion_tokens=1),
    ],
    ids=str,
)
def test_frequencies_match_the_exact_softmax(tiny_model_dir, sampling):
    num_draws = 20_000
    prompt_ids = (2, 4, 9, 10, 11)
    expected = expected_first_token(tiny_model_dir, prompt_ids, sampling)
    request = draws_of(prompt_ids, num_draws, seed=5)
    samples = TransformersEngine(tiny_model_dir).generate([request], sampling)
    drawn = Counter(sample.ids[0] for sample in samples if sample.ids)
    observed = torch.tensor([drawn[token] for token in range(len(expected))])
    assert observed[expected == 0].sum() == 0
    possible = expected > 0
    assert chisquare(observed[possible], expected[possible] * num_draws).pvalue > 1e-3


def test_later_tokens_match_the_exact_softmax(tiny_model_dir):
    """Given its first token, a sample's second follows the model's softmax over the longer text."""
    num_draws = 20_000
    prompt_ids = (2, 4, 9, 10, 11)
    request = draws_of(prompt_ids, num_draws, seed=6)
    sampling = params(temperature=0.5, max_completion_tokens=2, stop_ids=())
    pairs = Counter(sample.ids for sample in TransformersEngine(tiny_model_dir).generate([request], sampling))
    first = Counter(pair[0] for pair in pairs.elements() if pair).most_common(1)[0][0]
    expected = expected_first_token(tiny_model_dir, (*prompt_ids, first), sampling)
    observed = torch.tensor([pairs[(first, second)] for second in range(len(expected))])
    assert chisquare(observed, expected * observed.sum()).pvalue > 1e-3


def test_nothing_leaks_in_from_generation_config(tiny_model_dir, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    leaky = {"do_sample": True, "top_k": 1, "temperature": 0.01, "repetition_penalty": 1.3, "max_new_tokens": 2}
    (folder / "generation_config.json").write_text(json.dumps(leaky))
    requests = make_requests(num_prompts=4)
    plain = collect(TransformersEngine(tiny_model_dir), requests, params())
    assert collect(TransformersEngine(folder), requests, params()) == plain


def test_weights_that_are_not_finite_are_refused(tiny_model_dir, tiny_tokenizer, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    for temperature in (0.0, 1.0):
        with pytest.raises(ModelError, match="not finite"):
            list(TransformersEngine(tmp_path).generate(make_requests(), params(temperature=temperature)))
