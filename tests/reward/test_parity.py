"""Packs are used where they give the scores of rows alone, and nowhere else."""

import random
import warnings

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from posttrain.core.chat import encode_example
from posttrain.core.models import load_reward_model
from reward.forward import head_scores, packed_hidden, padded_hidden
from reward.parity import compare, probe, why_padded
from reward.score import RowEncoder, measure_noise, score_rows

WORDS = ["the", "a", "red", "green", "cat", "dog", "bird", "answer", "yes", "no", "one", "two", "three"]
NUM_COMPLETIONS = 4


@pytest.fixture(scope="module")
def rows():
    chance = random.Random(5)

    def words(count):
        return " ".join(chance.choice(WORDS) for _ in range(count))

    made = []
    for _ in range(8):
        prompt = [{"role": "user", "content": words(chance.randint(1, 40))}]
        for _ in range(NUM_COMPLETIONS):
            completion = [{"role": "assistant", "content": words(chance.randint(0, 50))}]
            made.append({"prompt": prompt, "completion": completion})
    return made


def made(tokenizer, config_class, dtype=torch.float32, **changes):
    size = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "pad_token_id": tokenizer.pad_token_id,
        "num_labels": 1,
    }
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config_class(**{**size, **changes})).to(dtype).eval()


@pytest.fixture(scope="module")
def llama(tiny_tokenizer):
    return made(tiny_tokenizer, LlamaConfig)


def encoded(tokenizer, rows):
    return [encode_example(tokenizer, row["prompt"], row["completion"], allow_empty=True).ids for row in rows]


def prompts(rows):
    return [str(row["prompt"]) for row in rows]


@torch.no_grad()
def of_transformers(model, ids, left_padding=0):
    pad = [model.config.pad_token_id] * left_padding
    mask = torch.tensor([[0] * left_padding + [1] * len(ids)])
    return model(input_ids=torch.tensor([pad + ids]), attention_mask=mask).logits[0, 0].item()


def scores_of(rows, model, tokenizer, **options):
    return [row["score"] for row in score_rows(rows, model, tokenizer, **options)]


@pytest.mark.parametrize(
    ("config_class", "changes"),
    [
        (LlamaConfig, {}),
        (LlamaConfig, {"num_key_value_heads": 4}),
        (Qwen2Config, {}),
        (Qwen3Config, {}),
        (MistralConfig, {"sliding_window": None}),
    ],
)
def test_packs_serve_and_give_what_transformers_gives_for_the_row(rows, tiny_tokenizer, config_class, changes):
    model = made(tiny_tokenizer, config_class, **changes)
    ids = encoded(tiny_tokenizer, rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert why_padded(model, model.score, ids, prompts(rows), 8192) is None
        got = scores_of(rows, model, tiny_tokenizer)
    assert got == pytest.approx([of_transformers(model, row) for row in ids], abs=1e-5)
    assert got == pytest.approx([of_transformers(model, row, left_padding=9) for row in ids], abs=1e-5)
    assert max(got) - min(got) > 0.1  # or the comparison says nothing


@pytest.mark.parametrize("size", [1, 2, 7, 32])
def test_a_score_is_the_same_in_batches_of_any_number_of_rows(rows, llama, tiny_tokenizer, size):
    together = scores_of(rows, llama, tiny_tokenizer)
    parts = [scores_of(rows[start : start + size], llama, tiny_tokenizer) for start in range(0, len(rows), size)]
    assert [score for part in parts for score in part] == pytest.approx(together, abs=1e-5)


def test_a_score_is_the_same_with_and_without_the_shared_prefix(rows, llama, tiny_tokenizer):
    ids = encoded(tiny_tokenizer, rows)

    def scores(batches):
        found = {p: s for places, h in batches for p, s in zip(places, head_scores(llama.score, h), strict=True)}
        return [found[place] for place in range(len(ids))]

    shared = scores(packed_hidden(llama, ids, prompts(rows), 8192))
    unshared = scores(packed_hidden(llama, ids, list(range(len(ids))), 8192))
    padded = scores(padded_hidden(llama, ids, 8192))
    assert unshared == pytest.approx(shared, abs=1e-5) and padded == pytest.approx(shared, abs=1e-5)


def test_pad_and_end_of_turn_may_be_one_token(rows, tiny_tokenizer, llama):
    """Then the class of the model reads the score before the end of turn, and so do packs."""
    model = made(tiny_tokenizer, LlamaConfig, pad_token_id=tiny_tokenizer.eos_token_id)
    model.load_state_dict(llama.state_dict())
    wanted = [of_transformers(model, ids) for ids in encoded(tiny_tokenizer, rows)]
    assert scores_of(rows, model, tiny_tokenizer) == pytest.approx(wanted, abs=1e-5)
    assert max(abs(a - b) for a, b in zip(wanted, scores_of(rows, llama, tiny_tokenizer), strict=True)) > 1e-3


@pytest.mark.parametrize(
    ("config_class", "changes", "why"),
    [(Gemma2Config, {}, "caps the logits"), (MistralConfig, {"sliding_window": 16}, "sliding_window is 16")],
)
def test_a_model_that_packs_cannot_hold_is_scored_in_padded_batches(rows, tiny_tokenizer, config_class, changes, why):
    model = made(tiny_tokenizer, config_class, **changes)
    ids = encoded(tiny_tokenizer, rows)
    assert why in why_padded(model, model.score, ids, prompts(rows), 8192)
    wanted = [of_transformers(model, row) for row in ids]
    assert scores_of(rows, model, tiny_tokenizer, max_batch_tokens=500) == pytest.approx(wanted, abs=1e-5)


def test_a_model_whose_configuration_hides_what_it_does_is_found_out(rows, tiny_tokenizer):
    """Each token also takes what stands beside it in memory: in a row the token before, in a pack a stranger."""
    model = made(tiny_tokenizer, LlamaConfig)

    def blend(_module, _inputs, hidden):
        return hidden + torch.nn.functional.pad(hidden, (0, 0, 1, 0))[:, :-1]

    model.model.layers[0].register_forward_hook(blend)
    wanted = [of_transformers(model, row) for row in encoded(tiny_tokenizer, rows)]
    with pytest.warns(UserWarning, match="padded batches.*off by"):
        got = scores_of(rows, model, tiny_tokenizer)
    assert got == pytest.approx(wanted, abs=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is remembered
        assert scores_of(rows, model, tiny_tokenizer) == pytest.approx(wanted, abs=1e-5)
        assert "off by" in measure_reason(rows, model, tiny_tokenizer)


def measure_reason(rows, model, tokenizer):
    return why_padded(model, model.score, encoded(tokenizer, rows), prompts(rows), 8192)


def test_in_float32_the_noise_is_rounding(rows, tiny_reward_model_dir, tiny_tokenizer):
    model = load_reward_model(tiny_reward_model_dir)
    noise = measure_noise(rows, model, RowEncoder(model, tiny_tokenizer), 8192)
    assert noise.why_padded is None and noise.rows == 4 and 0.0 <= noise.max_difference < 1e-5


def test_in_bfloat16_the_best_of_k_stands_wherever_its_lead_exceeds_the_noise(rows, tiny_tokenizer):
    model = made(tiny_tokenizer, LlamaConfig, torch.bfloat16)
    noise = measure_noise(rows, model, RowEncoder(model, tiny_tokenizer), 8192)
    assert noise.rows == 16 and 1e-5 < noise.max_difference < 0.5
    ids = encoded(tiny_tokenizer, rows)
    runs = [head_scores(model.score, torch.cat([h for _, h in padded_hidden(model, [row], 1)]))[0] for row in ids]
    runs = [runs]  # first each row alone, by the model's own forward
    for seed, budget in ((0, 8192), (1, 300), (2, 128), (3, 1)):
        order = list(range(len(rows)))
        random.Random(seed).shuffle(order)
        found = scores_of([rows[i] for i in order], model, tiny_tokenizer, max_batch_tokens=budget)
        runs.append([score for _, score in sorted(zip(order, found, strict=True))])
    decided = 0
    for start in range(0, len(rows), NUM_COMPLETIONS):
        candidates = range(start, start + NUM_COMPLETIONS)
        for scores in runs:
            second, first = sorted(scores[i] for i in candidates)[-2:]
            if first - second > noise.max_difference:
                decided += 1
                best = max(candidates, key=scores.__getitem__)
                assert all(max(candidates, key=other.__getitem__) == best for other in runs)
    assert decided > 10


def test_the_noise_covers_differences_of_two_scores(rows, llama, tiny_tokenizer):
    """One score that moves up and one that moves down part by the sum."""
    ids, groups = encoded(tiny_tokenizer, rows), prompts(rows)
    parity = compare(llama, llama.score, ids, groups, 8192)
    moved = []
    for places, hidden in packed_hidden(llama, ids, groups, 8192):
        for place, score in zip(places, head_scores(llama.score, hidden), strict=True):
            moved.append(score - of_transformers(llama, ids[place]))
    assert parity.rows == 32
    assert parity.max_difference == pytest.approx(max(moved) - min(moved), abs=1e-6)


def test_a_comparison_stays_small(llama):
    groups = [f"p{i // 8}" for i in range(80_000)]
    chosen = probe(llama, groups, len(groups))
    assert len(chosen) == 64 and len({groups[i] for i in chosen}) == 8 and max(chosen) > 60_000
    assert len(probe(llama, groups[:2000], 2000)) == 15
    assert probe(llama, ["a", "b", "a"], 3) == [0, 2, 1] and probe(llama, [], 0) == []
