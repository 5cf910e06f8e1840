"""Rows in packs give what each gives alone, and models that packs cannot hold are run padded."""

from functools import partial

import pytest
import torch
from training_data import completion_rows, preference_rows
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from posttrain.config import DPOConfig, SFTConfig
from posttrain.core.chat import load_tokenizer
from posttrain.core.models import load_causal_lm
from posttrain.train.dpo import train_dpo
from posttrain.train.forward import Forward, prepare_forward
from posttrain.train.pairs import PairCollator, tokenize_pairs
from posttrain.train.sft import IGNORED, RowCollator, tokenize_rows, train_sft

SIZE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "initializer_range": 0.3}  # fmt: skip


def alone(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)


def test_a_packed_row_has_the_logprobs_of_the_row_alone(tiny_model_dir, tiny_tokenizer):
    model = load_causal_lm(tiny_model_dir)
    dataset, _ = tokenize_rows(completion_rows(12), tiny_tokenizer, SFTConfig(max_steps=1))
    forward, collate = prepare_forward(model, partial(RowCollator, dataset, tiny_tokenizer.pad_token_id))
    assert forward.packs
    part = collate.part(list(range(12)))
    assert part["ids"].shape == (1, sum(len(row["input_ids"]) for row in dataset))
    with torch.no_grad(), forward.attention():
        got, _, _ = forward.logprobs_at(model, part, part["places"], part["targets"])
    wanted = []
    for row in dataset:
        logprobs = alone(model, row["input_ids"])
        wanted += [float(logprobs[i - 1, label]) for i, label in enumerate(row["labels"]) if label != IGNORED]
    assert got.tolist() == pytest.approx(wanted, abs=1e-5)
    assert not model.lm_head._forward_pre_hooks and model.config._attn_implementation == "sdpa"


def test_both_sides_of_a_pair_read_one_prompt_and_not_each_other(tiny_model_dir, tiny_tokenizer):
    model = load_causal_lm(tiny_model_dir)
    dataset, _ = tokenize_pairs(preference_rows(6), tiny_tokenizer, DPOConfig(max_steps=1), True)
    forward = Forward(model, 50)
    results = []
    for packed in (True, False):
        part = PairCollator(dataset, tiny_tokenizer.pad_token_id, packed).part([4, 0, 2])
        with torch.no_grad(), forward.attention() if packed else torch.no_grad():
            results.append(forward.logprobs_at(model, part, part["places"], part["targets"])[0].tolist())
    wanted = []
    for number in (4, 0, 2):
        row = dataset[number]
        for side in ("chosen", "rejected"):
            ids, start = row["prompt_ids"] + row[f"{side}_ids"], len(row["prompt_ids"])
            logprobs = alone(model, ids)
            wanted += [float(logprobs[i - 1, ids[i]]) for i in range(start, len(ids)) if row[f"{side}_mask"][i - start]]
    assert results[0] == pytest.approx(wanted, abs=1e-5)
    assert results[1] == pytest.approx(wanted, abs=1e-5)


def save(model, tokenizer, folder):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["capped logits and attention", "a window shorter than the rows"])
def test_what_packs_cannot_hold_is_padded_and_learns_the_same(kind, tiny_tokenizer, tmp_path):
    torch.manual_seed(0)
    size = {**SIZE, "vocab_size": len(tiny_tokenizer)}
    if kind == "a window shorter than the rows":
        model = MistralForCausalLM(MistralConfig(**size, sliding_window=4))
    else:
        model = Gemma2ForCausalLM(Gemma2Config(**size, head_dim=8, sliding_window=512))
    folder = save(model, tiny_tokenizer, tmp_path / "model")
    config = SFTConfig(learning_rate=1e-3, max_steps=1, global_batch_size=4, logging_steps=1)
    dataset, _ = tokenize_rows(completion_rows(4), load_tokenizer(folder), config)
    model = load_causal_lm(folder)
    forward, _ = prepare_forward(model, partial(RowCollator, dataset, tiny_tokenizer.pad_token_id))
    assert not forward.packs and ("window" in forward.why_padded or "caps" in forward.why_padded)
    wanted, count = 0.0, 0
    for row in dataset:
        logprobs = alone(model, row["input_ids"])
        wanted -= sum(float(logprobs[i - 1, label]) for i, label in enumerate(row["labels"]) if label != IGNORED)
        count += sum(label != IGNORED for label in row["labels"])
    assert train_sft(folder, completion_rows(4), tmp_path / "out", config, seed=0)["loss"] == pytest.approx(
        wanted / count, rel=1e-5
    )


def test_a_model_whose_packs_come_out_wrong_is_padded(tiny_model_dir, tiny_tokenizer, monkeypatch):
    dataset, _ = tokenize_rows(completion_rows(4), tiny_tokenizer, SFTConfig(max_steps=1))
    whole = Forward.hidden_at

    def off(self, model, part, places):
        hidden = whole(self, model, part, places)
        return hidden * 1.01 if "pack" in part else hidden

    monkeypatch.setattr(Forward, "hidden_at", off)
    make = partial(RowCollator, dataset, tiny_tokenizer.pad_token_id)
    forward, collate = prepare_forward(load_causal_lm(tiny_model_dir), make)
    assert "off by 0.01" in forward.why_padded
    assert collate.part([0, 1])["ids"].shape[0] == 2


def test_gradient_checkpointing_changes_nothing(tiny_model_dir, tmp_path, weights_of, largest_difference):
    for name, again in (("kept", False), ("again", True)):
        config = DPOConfig(
            learning_rate=1e-4, max_steps=3, global_batch_size=4, logging_steps=1, gradient_checkpointing=again
        )
        train_dpo(tiny_model_dir, preference_rows(8), tmp_path / name, config, seed=0)
    assert largest_difference(weights_of(tmp_path / "kept"), weights_of(tmp_path / "again")) < 1e-6


def test_tied_weights_learn_from_both_of_their_uses(tiny_tokenizer, tmp_path, weights_of, largest_difference):
    torch.manual_seed(0)
    config = LlamaConfig(**SIZE, vocab_size=len(tiny_tokenizer), tie_word_embeddings=True)
    folder = save(LlamaForCausalLM(config), tiny_tokenizer, tmp_path / "model")
    section = SFTConfig(learning_rate=1e-3, max_steps=1, global_batch_size=4, warmup_ratio=0.0, max_grad_norm=1e9)
    rows = completion_rows(4)
    train_sft(folder, rows, tmp_path / "out", section, seed=0)
    dataset, _ = tokenize_rows(rows, tiny_tokenizer, section)
    model = load_causal_lm(folder).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    count = sum(label != IGNORED for row in dataset for label in row["labels"])
    for row in dataset:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        logits = model(input_ids=ids).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, labels[1:], ignore_index=IGNORED, reduction="sum") / count
        loss.backward()
    optimizer.step()
    wanted = {name: weight.detach() for name, weight in model.named_parameters()}
    assert largest_difference(weights_of(tmp_path / "out"), wanted) < 1e-5
