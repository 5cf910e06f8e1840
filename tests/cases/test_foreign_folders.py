"""Folders of other tools are read or refused: peft#1457, peft#1932, axolotl#2277, transformers#45127."""

import json

import pytest
from made import assistant, byte_bpe, llama, user, write_rows
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

from posttrain.core.errors import ModelError
from posttrain.core.models import load_causal_lm


@pytest.fixture(scope="module")
def tokenizer():
    return byte_bpe()


def _train(run_command, model, folder, *options):
    rows = [{"prompt": user(f"name a river {i}"), "completion": assistant("the elbe")} for i in range(4)]
    data = write_rows(folder / "rows.jsonl", rows)
    asked = ("--model", model, "--data", data, "--out", folder / "out", "max_steps=1", "learning_rate=1e-3", *options)
    return run_command("train", "sft", *asked)


def test_quantised_weights_are_not_trained(tmp_path, tokenizer, run_command):
    base = llama(tmp_path / "base", tokenizer)
    config = json.loads((base / "config.json").read_text())
    faults = []
    for kind in ("fp8", "bitsandbytes", "gptq", "awq", "mxfp4", "compressed-tensors", "nonsense"):
        (base / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": kind}}))
        ran = _train(run_command, base, tmp_path)
        if ran.code != 1 or kind not in ran.said or "unquantised" not in ran.said:
            faults.append((kind, ran.code, ran.said[-300:]))
    assert not faults


def _adapter(base, folder, tokenizer, resize=0, **settings):
    model = AutoModelForCausalLM.from_pretrained(base)
    if resize:
        model.resize_token_embeddings(len(tokenizer) + resize)
    model = get_peft_model(model, LoraConfig(r=2, **settings))
    for name, weight in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(weight)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_an_adapter_on_a_tied_embedding_or_of_another_vocabulary_is_refused(tmp_path, tokenizer):
    tied = llama(tmp_path / "tied", tokenizer, tie_word_embeddings=True)
    plain = llama(tmp_path / "plain", tokenizer)
    embedding = _adapter(tied, tmp_path / "embedding", tokenizer, target_modules=["embed_tokens", "q_proj"])
    with pytest.raises(ModelError, match="tied to the output head"):
        load_causal_lm(embedding)
    resized = _adapter(plain, tmp_path / "resized", tokenizer, 8, target_modules=["q_proj"])
    with pytest.raises(ModelError, match="cannot be put above its base"):
        load_causal_lm(resized)
    load_causal_lm(_adapter(tied, tmp_path / "usual", tokenizer, target_modules=["q_proj"], use_dora=True))


def test_what_could_not_be_saved_is_found_before_the_first_step(tmp_path, tokenizer, run_command):
    base = llama(tmp_path / "base", tokenizer, tie_word_embeddings=True)
    ran = _train(run_command, base, tmp_path, "lora.rank=2", "lora.target_modules=[embed_tokens]")
    assert ran.code == 1 and "tied to the output head" in ran.said, ran.said
    settings = json.loads((base / "generation_config.json").read_text())
    (base / "generation_config.json").write_text(json.dumps({**settings, "do_sample": False, "typical_p": 0.5}))
    ran = _train(run_command, base, tmp_path)
    assert ran.code == 1 and "training does not start" in ran.said, ran.said
    assert not (tmp_path / "out" / "metrics.jsonl").exists() or not (tmp_path / "out" / "metrics.jsonl").read_text()
