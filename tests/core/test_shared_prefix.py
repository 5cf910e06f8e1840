"""A model over a pack gives what it gives for each row alone."""

import random

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from posttrain.core import attention, segment_attention, segment_layout
from posttrain.core.models import load_reward_model
from posttrain.core.packing import shared_prefix_packs
from posttrain.core.shared_prefix import UnsupportedModel, hidden_states, last_hidden_states, why_not_packed

SIZE = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "num_labels": 1,
    "initializer_range": 0.3,  # so that attention matters
}
CONFIGS = {
    "llama": LlamaConfig(**SIZE, num_key_value_heads=4),
    "llama, two key-value heads": LlamaConfig(**SIZE, num_key_value_heads=2),
    "llama, wide heads": LlamaConfig(**SIZE, num_key_value_heads=1, head_dim=24, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SIZE, num_key_value_heads=2),
    "qwen3": Qwen3Config(**SIZE, num_key_value_heads=2, head_dim=16),
    "mistral without a window": MistralConfig(**SIZE, num_key_value_heads=2, sliding_window=None),
    "mistral, a window wider than the rows": MistralConfig(**SIZE, num_key_value_heads=2, sliding_window=100),
}


def made(config, dtype=torch.float32):
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config).to(dtype).eval()


@pytest.fixture(scope="module")
def rows():
    """Prompts with several rows, one row, two equal rows, and one that begins with another."""
    chance = random.Random(0)

    def draw(count):
        return [chance.randint(1, 49) for _ in range(count)]

    long, short, twice, stem = draw(30), draw(3), draw(12), draw(9)
    grouped = [(0, long + draw(n)) for n in (1, 2, 9, 40)] + [(1, short + draw(n)) for n in (5, 60)]
    grouped += [(2, draw(25)), (3, twice), (3, twice), (4, stem), (4, stem + draw(4)), (5, draw(1)), (6, draw(1))]
    return [ids for _, ids in grouped], [group for group, _ in grouped]


@torch.no_grad()
def alone(model, ids):
    return model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("budget", [1, 50, 1000])
def test_the_last_hidden_state_is_that_of_the_row_alone(name, budget, rows):
    model = made(CONFIGS[name])
    assert why_not_packed(model, 70) is None
    before = model.config._attn_implementation
    seen = 0
    for pack in shared_prefix_packs(*rows, budget):
        with torch.inference_mode():
            got = last_hidden_states(model, pack)
        for row, hidden in zip(pack.rows, got, strict=True):
            torch.testing.assert_close(hidden, alone(model, rows[0][row])[-1], atol=1e-5, rtol=1e-5)
            seen += 1
    assert seen == len(rows[0])
    assert model.config._attn_implementation == before  # and the plain forward is what it was


def test_every_token_is_what_it_is_in_its_row(rows):
    model = made(CONFIGS["llama, two key-value heads"])
    (pack,) = shared_prefix_packs(*rows, 1000)
    with torch.no_grad():
        hidden = hidden_states(model, pack)
    for row, (_, own) in zip(pack.rows, pack.row_segments, strict=True):
        segment = pack.segments[own]
        wanted = alone(model, rows[0][row])[-segment.length :]
        got = hidden[segment.start : segment.start + segment.length]
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_the_rows(rows):
    model = made(CONFIGS["llama, two key-value heads"])
    (pack,) = shared_prefix_packs(*rows, 1000)
    hidden_states(model, pack)[pack.last_places].square().sum().backward()
    packed = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    for ids in rows[0]:
        model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1].square().sum().backward()
    plain = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert len(plain) > 20 and packed.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(packed[name], gradient, atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.parametrize("most_shared", [0, 400, 1 << 30])
def test_runs_taken_as_they_lie_and_runs_in_buckets_learn_the_same(most_shared, rows, monkeypatch):
    """All alone, the longer ones (of more than 20 tokens) alone, none alone; against attention without a fused call."""
    monkeypatch.setattr(segment_layout, "_MOST_SHARED", most_shared)
    (pack,) = shared_prefix_packs(*rows, 1000)
    cpu = torch.device("cpu")
    learned, plain = segment_layout.layout(pack, cpu, learns=True), segment_layout.layout(pack, cpu)
    num_alone = sum(segment.length**2 > most_shared for segment in pack.segments)
    assert len(learned.own.alone) == num_alone and not plain.own.alone
    assert (num_alone > 0, len(learned.own.buckets) > 0) == (most_shared < 1 << 30, most_shared > 0)
    torch.manual_seed(0)
    tensors = [torch.randn(1, heads, len(pack.ids), 8, requires_grad=True) for heads in (4, 2, 2)]
    weight = torch.randn(1, len(pack.ids), 4, 8)
    found = []
    for places in (learned, plain):
        out, _ = segment_attention._attention(torch.nn.Identity(), *tensors, None, scaling=0.4, shared_prefix=places)
        found.append([out, *torch.autograd.grad((out * weight).sum(), tensors)])
    for got, wanted in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_attention_without_the_fused_function_is_the_same(causal, monkeypatch):
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 4, 20, 8), torch.randn(3, 2, 20, 8), torch.randn(3, 2, 20, 8)
    fused = attention.attend(query, key, value, 0.3, causal)
    for most in (1 << 26, 1, 3 * 4 * 20 * 7):  # at once, a query at a time, seven queries at a time
        monkeypatch.setattr(attention, "_MOST_LOGITS", most)
        for got, wanted in zip(attention._attend_plainly(query, key, value, 0.3, causal, None), fused, strict=True):
            torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_what_the_configuration_rules_out_is_named():
    small = {**SIZE, "num_key_value_heads": 2}
    window = made(MistralConfig(**small, sliding_window=16))
    assert why_not_packed(window, 16) is None
    assert "sliding_window is 16 and the longest row has 17" in why_not_packed(window, 17)
    off = made(Qwen2Config(**small, use_sliding_window=False, sliding_window=16))
    assert why_not_packed(off, 100) is None
    assert "caps" in why_not_packed(made(Gemma2Config(**small, head_dim=8)), 10)
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert "length of a row" in why_not_packed(made(LlamaConfig(**small, rope_parameters=rope)), 10)


def test_attention_that_a_pack_cannot_hold_is_refused(rows):
    (pack,) = shared_prefix_packs(*rows, 1000)
    capped = made(Gemma2Config(**SIZE, num_key_value_heads=2, head_dim=8))
    with torch.inference_mode(), pytest.raises(UnsupportedModel, match="softcap"):
        last_hidden_states(capped, pack)
    assert capped.config._attn_implementation != segment_attention.NAME


def test_learned_positions_serve_too(rows):
    config = GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=128, pad_token_id=0, num_labels=1)
    model = made(config)
    if why_not_packed(model, 70) is not None:
        pytest.skip("this version of transformers gives GPT-2 no other attention function")
    for pack in shared_prefix_packs(*rows, 1000):
        with torch.inference_mode():
            got = last_hidden_states(model, pack)
        for row, hidden in zip(pack.rows, got, strict=True):
            torch.testing.assert_close(hidden, alone(model, rows[0][row])[-1], atol=1e-5, rtol=1e-5)


def test_a_reward_models_last_layer_works_at_the_last_tokens_alone(tiny_reward_model_dir):
    """Loaded for scoring, its layers are packed ones; the MLP of the last layer sees one token a row all the same."""
    model = load_reward_model(tiny_reward_model_dir)
    (pack,) = shared_prefix_packs([[2, 9, 10, 11], [2, 9, 10, 12, 13], [2, 9, 10, 14]], ["p"] * 3, 1000)
    seen = []
    layers = model.base_model.layers
    for layer in layers:
        layer.mlp.down_proj.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    with torch.inference_mode():
        last_hidden_states(model, pack)
    assert seen == [len(pack.ids)] * (len(layers) - 1) + [3]
