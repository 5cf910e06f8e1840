"""What a model computes in training and scoring is what plain transformers computes for each row alone."""

from __future__ import annotations

import math

import pytest
import torch
import transformers
from made import assistant, byte_bpe, llama, read_rows, user, write_rows

from posttrain.core.chat import encode_example
from posttrain.core.models import load_causal_lm, load_config, load_reward_model
from posttrain.train.forward import prepare_forward
from posttrain.train.sft import RowCollator, tokenize_rows

STEPS = ("learning_rate=1e-12", "warmup_ratio=0", "logging_steps=1", "max_steps=2", "global_batch_size=8")
LONG = " ".join(["red green blue cat"] * 20)
ANSWERS = ["cat", LONG, "the elbe ends in the north sea .", "name a river", LONG + " " + LONG, "blue bird"]
PAIRS = [{"prompt": user("name a river"), "chosen": assistant(a), "rejected": assistant("fish " + a)} for a in ANSWERS]
ROWS = [{"prompt": user("name a river"), "completion": assistant(answer)} for answer in ANSWERS]
SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "initializer_range": 0.3, "bos_token_id": None,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [1.0, 4.0, 16.0, 64.0],
    "original_max_position_embeddings": 64,
}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 8.0}


@pytest.fixture(scope="module")
def tokenizer():
    return byte_bpe()


def save(folder, tokenizer, config_class, model_class, **settings):
    torch.manual_seed(0)
    ids = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    make = getattr(model_class, "from_config", model_class)
    make(config_class(**{**ids, **settings})).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def stretched(folder, tokenizer, rope, kind="CausalLM"):
    """A Phi 3 with 'longrope' or a Llama with 'dynamic' positions, both stretched beyond 64 tokens."""
    if rope == "longrope":
        more = {"rope_parameters": LONGROPE, "max_position_embeddings": 512, "original_max_position_embeddings": 64}
        classes = (transformers.Phi3Config, getattr(transformers, f"Phi3For{kind}"))
    else:
        more = {"rope_parameters": DYNAMIC, "max_position_embeddings": 64}
        classes = (transformers.LlamaConfig, getattr(transformers, f"LlamaFor{kind}"))
    labels = {"num_labels": 1} if kind != "CausalLM" else {}
    return save(folder, tokenizer, *classes, **SIZES, **more, **labels)


def plain_loss(folder, tokenizer, rows):
    """Cross-entropy of each row alone, each in a model that was loaded for it."""
    total, count = 0.0, 0
    for row in rows:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        encoded = encode_example(tokenizer, row["prompt"], row["completion"])
        with torch.no_grad():
            logprobs = model(torch.tensor([encoded.ids])).logits[0].double().log_softmax(-1)
        learned = [place for place, mask in enumerate(encoded.mask) if mask]
        total -= sum(float(logprobs[place - 1, encoded.ids[place]]) for place in learned)
        count += len(learned)
    return total / count


@pytest.mark.parametrize("rope", ["longrope", "dynamic"])
def test_a_rows_positions_do_not_follow_its_neighbours(rope, tokenizer, tmp_path, run_command):
    """ggml-org/llama.cpp#24875, lablup/mlxcel#1358, unslothai/unsloth#481: angles chosen by the longest row of a pass.

    SFT's loss is that of each row alone; DPO without a learning rate stays at ln 2, whatever shares a pass.
    """
    folder = stretched(tmp_path / "model", tokenizer, rope)
    data, pairs = write_rows(tmp_path / "rows.jsonl", ROWS), write_rows(tmp_path / "pairs.jsonl", PAIRS)
    ran = run_command("train", "sft", "--model", folder, "--data", data, "--out", tmp_path / "sft", *STEPS)
    assert ran.code == 0, ran.said
    first = read_rows(tmp_path / "sft" / "metrics.jsonl")[0]["loss"]
    assert first == pytest.approx(plain_loss(folder, tokenizer, ROWS), abs=1e-5)
    two = (*STEPS[:-1], "global_batch_size=3")
    ran = run_command("train", "dpo", "--model", folder, "--data", pairs, "--out", tmp_path / "dpo", *two)
    assert ran.code == 0, ran.said
    for row in read_rows(tmp_path / "dpo" / "metrics.jsonl"):
        assert row["loss/preference"] == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize("rope", ["longrope", "dynamic"])
def test_a_score_does_not_follow_the_longest_row(rope, tokenizer, tmp_path):
    """ggml-org/llama.cpp#24875: the same answer, alone and beside a long one, in whatever order they come."""
    from reward.score import score_rows

    folder = stretched(tmp_path, tokenizer, rope, "SequenceClassification")
    model = load_reward_model(folder)
    for rows in (ROWS, ROWS[::-1], ROWS[2:4]):
        scored = score_rows(rows, model, tokenizer)
        for row in scored:
            ids = encode_example(tokenizer, row["prompt"], row["completion"]).ids
            if rope == "dynamic" and len(ids) > 64:  # more than its configuration has positions for
                assert row["drop_reason"].startswith("too long")
                continue
            alone = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
            with torch.no_grad():
                assert row["score"] == pytest.approx(float(alone(torch.tensor([ids])).logits[0, 0]), abs=1e-4)


def test_noise_of_the_configuration_is_off_in_training_and_stays_in_the_folder(tokenizer, tmp_path, run_command):
    """hiyouga/LlamaFactory#10779, huggingface/trl#2042: functional dropout makes the policy differ from its reference.

    With a learning rate of nothing DPO stays at ln 2 and SFT's loss is the same in both steps; GPT-2's attention
    dropout ends nothing.
    """
    wide = {**SIZES, "max_position_embeddings": 256}
    gpt2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "bos_token_id": None}
    falcon = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "bos_token_id": None}
    models = {
        "SeedOss": {**wide, "head_dim": 8, "attention_dropout": 0.1, "residual_dropout": 0.1},
        "OPT": {**wide, "ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.1, "layerdrop": 0.3},
        "GPT2": {**gpt2, "attn_pdrop": 0.2, "resid_pdrop": 0.2},
        "Falcon": {**falcon, "attention_dropout": 0.1, "hidden_dropout": 0.1},  # read while it runs
    }
    short = [row for row in ROWS if LONG not in row["completion"][0]["content"]]
    pairs = [row for row in PAIRS if LONG not in row["chosen"][0]["content"]]
    data, compared = write_rows(tmp_path / "rows.jsonl", short), write_rows(tmp_path / "pairs.jsonl", pairs)
    faults = []
    for name, settings in models.items():
        config_class = getattr(transformers, f"{name}Config")
        folder = save(tmp_path / name, tokenizer, config_class, transformers.AutoModelForCausalLM, **settings)
        for kind, file in (("sft", data), ("dpo", compared)):
            out = tmp_path / f"{name}-{kind}"
            ran = run_command("train", kind, "--model", folder, "--data", file, "--out", out, *STEPS)
            if ran.code != 0:
                faults.append(f"{name} {kind}: {ran.said[-300:]}")
                continue
            first, second = read_rows(out / "metrics.jsonl")[:2]
            if abs(first["loss"] - second["loss"]) > 1e-5:
                faults.append(f"{name} {kind}: {first['loss']} and {second['loss']}")
            if kind == "dpo" and abs(first["loss/preference"] - math.log(2)) > 1e-5:
                faults.append(f"{name}: {first['loss/preference']}")
            said, saved = (transformers.AutoConfig.from_pretrained(place).to_dict() for place in (folder, out))
            changed = {key: (said[key], saved[key]) for key in said if "drop" in key and said[key] != saved[key]}
            if changed:
                faults.append(f"{name} {kind}: {changed}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("kind", ["dpo", "reward-model"])
def test_dropout_of_adapters_does_something(kind, tokenizer, tmp_path, run_command):
    """meta-pytorch/torchtune#996: a setting that changes the artifact's address changes the training, too."""
    folder = llama(tmp_path / "model", tokenizer, max_position_embeddings=1024)
    prompts = ["name a river", "sort the list", "the north sea", "red or blue", "add a word", "last word"]
    rows = [{**pair, "prompt": user(prompt)} for pair, prompt in zip(PAIRS, prompts, strict=True)]
    data = write_rows(tmp_path / "pairs.jsonl", rows)
    losses = []
    for share in (0, 0.5):
        more = ("learning_rate=1e-2", "max_steps=3", "logging_steps=3", "lora.rank=4", f"lora.dropout={share}")
        out = tmp_path / f"out-{share}"
        ran = run_command("train", kind, "--model", folder, "--data", data, "--out", out, *more)
        assert ran.code == 0, ran.said
        losses.append([row["loss"] for row in read_rows(out / "metrics.jsonl")])
    assert losses[0][0] == pytest.approx(losses[1][0], abs=1e-6)  # the second matrix is zero at the start
    assert losses[0][-1] != losses[1][-1]


def test_a_cap_is_seen_although_logits_are_small(tokenizer, tmp_path):
    """verl-project/verl#7991, apple/ml-cross-entropy#48, unslothai/unsloth-zoo#593.

    A fresh Gemma 2's logits pass its cap unchanged; the head must not be taken for the whole, while a plain head is.
    """
    gemma = {**SIZES, "head_dim": 8, "initializer_range": 0.02, "max_position_embeddings": 1024}
    models = {
        "Gemma2": ({**gemma, "final_logit_softcapping": 30.0}, False),
        "Cohere": ({**gemma, "logit_scale": 0.0625}, False),
        "Granite": ({**gemma, "logits_scaling": 8.0}, False),
        "Llama": (gemma, True),
        "Gemma": (gemma, True),  # embeddings are multiplied, logits are not
    }
    faults = []
    for name, (settings, is_plain) in models.items():
        classes = (getattr(transformers, f"{name}Config"), getattr(transformers, f"{name}ForCausalLM"))
        folder = save(tmp_path / name, tokenizer, *classes, **settings)
        forward, collate, _ = prepared(folder, tokenizer)
        if forward._head_is_linear() != is_plain:
            faults.append(f"{name}: taken for a plain head: {not is_plain}")
        model, part = forward._model, collate.part([0, 2, 3])
        with torch.no_grad(), forward.attention():
            logprobs, _, _ = forward.logprobs_at(model, part, part["places"], part["targets"])
        rows = [ROWS[0], ROWS[2], ROWS[3]]
        if abs(float(-logprobs.mean()) - plain_loss(folder, tokenizer, rows)) > 1e-5:
            faults.append(f"{name}: loss {float(-logprobs.mean())}")
    assert not faults, "\n".join(faults)


def prepared(folder, tokenizer, change=lambda model: None):
    from posttrain.config import SFTConfig

    dataset, _ = tokenize_rows(ROWS, tokenizer, SFTConfig(max_steps=1, learning_rate=1e-4))
    model = load_causal_lm(folder)
    change(model)
    return *prepare_forward(model, lambda packed: RowCollator(dataset, tokenizer.pad_token_id, packed)), model


def test_what_packs_do_not_have_in_training_mode_is_found_before_step_1(tokenizer, tmp_path, caplog):
    """An architecture that asks its attention for dropout in training alone is padded, and the log says so."""
    folder = llama(tmp_path, tokenizer, max_position_embeddings=1024)

    def with_dropout(model):
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = 0.1

    forward, _, model = prepared(folder, tokenizer, with_dropout)
    assert not forward.packs and "dropout" in forward.why_padded and "padded" in caplog.text
    assert not model.training
    assert prepared(folder, tokenizer)[0].packs


def test_padded_rows_are_compared_with_rows_alone(tokenizer, tmp_path, monkeypatch):
    """No fallback is taken for exact without a check: here the angles follow the longest row of a pass again."""
    from posttrain.core import models
    from posttrain.train.errors import TrainError

    folder = stretched(tmp_path, tokenizer, "longrope")
    assert not prepared(folder, tokenizer)[0].packs
    monkeypatch.setattr(models, "separate_rows", lambda model: None)
    with pytest.raises(TrainError, match="beside a long one than alone"):
        prepared(folder, tokenizer)


def test_names_of_layers_match_or_are_refused(tokenizer, tmp_path, run_command):
    """A typing error, or another architecture's name, adapted a part of the model and said nothing."""
    folder = llama(tmp_path / "model", tokenizer, max_position_embeddings=1024)
    data = write_rows(tmp_path / "rows.jsonl", ROWS)
    faults = []
    for names, told in (
        ('["q_proj","v_porj"]', "'v_porj' matches no layer"),
        ('["q_proj","c_attn"]', "'c_attn' matches no layer"),
        ('["q_proj","mlp"]', "'mlp' matches LlamaMLP"),
        ("query", "'query' matches no layer"),
        ('["q_proj","v_proj"]', None),
        (".*layers.1.*(up|down)_proj", None),
    ):
        out = tmp_path / f"out{len(names)}"
        more = (f"lora.target_modules={names}", "lora.rank=2", *STEPS[1:], "learning_rate=1e-3")
        ran = run_command("train", "sft", "--model", folder, "--data", data, "--out", out, *more)
        if told is None and (ran.code != 0 or '"adapted_layers": ' not in ran.out):
            faults.append(f"{names}: {ran.said[-300:]}")
        if told is not None and (ran.code != 1 or told not in ran.said or "q_proj" not in ran.said):
            faults.append(f"{names}: {ran.code} {ran.said[-300:]}")
    assert not faults, "\n".join(faults)


def test_a_reward_model_scores_as_its_class_does_where_the_end_of_turn_pads(tmp_path, run_command):
    """SmolLM2-Instruct as published: pad and end of turn are one token, and transformers reads the token before it.

    A new reward model gets a padding token of its own, so that its class reads the end of the row; a given one is read
    where its class reads it, in packs and in training, too.
    """
    from reward.score import score_rows

    tokenizer = byte_bpe(pad_token="<|im_end|>")
    folder = llama(tmp_path / "model", tokenizer, max_position_embeddings=1024)
    prompts = ["name a river", "sort the list", "the north sea", "red or blue", "add a word", "last word"]
    rows = [{**pair, "prompt": user(prompt)} for pair, prompt in zip(PAIRS, prompts, strict=True)]
    data = write_rows(tmp_path / "pairs.jsonl", rows)
    more = ("learning_rate=1e-3", "max_steps=2", "global_batch_size=8", "logging_steps=1")
    ran = run_command("train", "reward-model", "--model", folder, "--data", data, "--out", tmp_path / "new", *more)
    assert ran.code == 0, ran.said
    assert load_config(tmp_path / "new").pad_token_id == 0
    given = llama(tmp_path / "given", tokenizer, head="SequenceClassification", max_position_embeddings=1024)
    ran = run_command("train", "reward-model", "--model", given, "--data", data, "--out", tmp_path / "kept", *more)
    assert ran.code == 0, ran.said
    assert load_config(tmp_path / "kept").pad_token_id == tokenizer.eos_token_id
    for name in ("new", "given", "kept"):
        plain = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / name).eval()
        own = transformers.AutoTokenizer.from_pretrained(tmp_path / name)
        for row in score_rows(ROWS, load_reward_model(tmp_path / name), own):
            ids = encode_example(own, row["prompt"], row["completion"]).ids
            with torch.no_grad():
                assert row["score"] == pytest.approx(float(plain(torch.tensor([ids])).logits[0, 0]), abs=1e-5), name
