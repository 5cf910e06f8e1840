"""Folders of other tools are read or refused: peft#1457, peft#1932, axolotl#2277, transformers#45127."""

import json
import shutil

import peft
import pytest
import torch
from made import assistant, byte_bpe, llama, user, write_rows
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

from posttrain import config
from posttrain.core.errors import ModelError, PosttrainError
from posttrain.core.models import load_causal_lm, merge_adapter
from posttrain.train.sft import train_sft


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


Q = ["q_proj"]
ENDS = ["embed_tokens", "lm_head"]
# Name, settings of LoRA or another kind of adapter, whether the base ties its ends, and the refusal's words.
FOREIGN = [
    ("usual", {"target_modules": ["q_proj", "v_proj"]}, False, ""),
    ("rank_stabilised", {"target_modules": Q, "use_rslora": True}, False, ""),
    ("magnitudes", {"target_modules": ["q_proj", "up_proj"], "use_dora": True}, False, ""),
    ("head_in_full", {"target_modules": Q, "modules_to_save": ["lm_head"]}, False, ""),
    ("ends_in_full", {"target_modules": Q, "modules_to_save": ENDS}, False, ""),
    ("tied_embedding_in_full", {"target_modules": Q, "modules_to_save": ["embed_tokens"]}, True, ""),
    ("tied_head_in_full", {"target_modules": Q, "modules_to_save": ["lm_head"]}, True, ""),
    ("adapted_ends", {"target_modules": [*ENDS, *Q]}, False, ""),
    ("adapted_tied_embedding", {"target_modules": ["embed_tokens", *Q]}, True, "tied to the output head"),
    ("some_tokens", {"target_modules": Q, "trainable_token_indices": {"embed_tokens": [5, 6]}}, False, ""),
    ("some_tied_tokens", {"target_modules": Q, "trainable_token_indices": {"embed_tokens": [5, 6]}}, True, ""),
    ("biases", {"target_modules": Q, "bias": "lora_only"}, False, ""),
    ("ranks_by_layer", {
        "target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 1}, "alpha_pattern": {"q_proj": 32}},
     False, ""),
    ("one_layer", {"target_modules": Q, "layers_to_transform": [1]}, False, ""),
    ("embeddings_beside", {"target_modules": Q, "save_embedding_layers": True}, False, ""),
    ("tied_embeddings_beside", {"target_modules": Q, "save_embedding_layers": True}, True, ""),
    ("layers_twice", {"target_modules": Q, "layer_replication": [[0, 2], [0, 2]]}, False, "used twice"),
    ("scaled_activations", peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[]), False, ""),
    ("kronecker", peft.LoKrConfig(r=2, target_modules=Q), False, ""),
    ("rotations", peft.OFTConfig(oft_block_size=4, target_modules=Q), False, ""),
    ("prompt", peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"), False, "PROMPT_TUNING"),
    ("prefix", peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"), False, "PREFIX_TUNING"),
    ("tasks", peft.PolyConfig(r=2, n_tasks=1, n_skills=1, n_splits=1, target_modules=Q), False, "token ids alone"),
]  # fmt: skip


def _foreign(base, folder, tokenizer, settings):
    """Save an adapter as peft does, every weight moved, and give what it computes: None where that needs more."""
    settings = dict(settings) if isinstance(settings, dict) else settings
    beside = settings.pop("save_embedding_layers", "auto") if isinstance(settings, dict) else "auto"
    config = LoraConfig(r=2, lora_alpha=8, **settings) if isinstance(settings, dict) else settings
    torch.manual_seed(3)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05 * weight.requires_grad)
    model.save_pretrained(folder, save_embedding_layers=beside)
    tokenizer.save_pretrained(folder)
    try:
        return model(input_ids=torch.arange(3, 60)[None]).logits[:, -57:].detach()
    except ValueError:
        return None


def test_foreign_adapters_compute_what_peft_computes_or_are_refused(tmp_path, tokenizer):
    bases = [llama(tmp_path / f"base{tied:d}", tokenizer, tie_word_embeddings=tied) for tied in (False, True)]
    faults = []
    for name, settings, tied, refusal in FOREIGN:
        folder, merged = tmp_path / name, tmp_path / f"{name}-merged"
        wanted = _foreign(bases[tied], folder, tokenizer, settings)
        for way in ("loaded", "merged"):
            try:
                if way == "merged":
                    merge_adapter(folder, merged)
                got = load_causal_lm(merged if way == "merged" else folder)(torch.arange(3, 60)[None]).logits
                told = "runs" if refusal else "" if (got - wanted).abs().max() < 1e-4 else "another model"
            except PosttrainError as error:
                told = "" if refusal and refusal in str(error) else f"refused: {error}"
            except Exception as error:
                told = f"{type(error).__name__}: {error}"
            if told:
                faults.append((name, way, told[:300]))
    assert not faults


def test_an_adapter_whose_base_or_weights_are_not_there_is_refused(tmp_path, tokenizer):
    base = llama(tmp_path / "base", tokenizer)
    folder = _adapter(base, tmp_path / "adapter", tokenizer, target_modules=["q_proj"])
    config = json.loads((folder / "adapter_config.json").read_text())
    faults = []
    for change in (
        {"base_model_name_or_path": str(tmp_path / "moved")}, {"base_model_name_or_path": None},
        {"base_model_name_or_path": "someone/model"}, {"peft_type": "UNHEARD_OF"}, {"target_modules": ["w1"]},
        {"r": 3}, {"r": None}, {"peft_type": None},
    ):  # fmt: skip
        (folder / "adapter_config.json").write_text(json.dumps({**config, **change}))
        try:
            load_causal_lm(folder)
            faults.append((change, "runs"))
        except ModelError:
            pass
        except Exception as error:
            faults.append((change, repr(error)[:300]))
    (folder / "adapter_config.json").write_text(json.dumps(config))
    load_causal_lm(folder)
    shutil.move(folder / "adapter_model.safetensors", folder / "adapter_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        load_causal_lm(folder)
    assert not faults


def test_adapters_on_an_end_that_is_not_tied_are_trained_and_merged_or_refused(tmp_path, tokenizer, run_command):
    base = llama(tmp_path / "base", tokenizer, vocab_size=len(tokenizer) + 9)  # more rows than tokens
    ran = _train(run_command, base, tmp_path, "lora.rank=2", "lora.target_modules=[lm_head]")
    assert ran.code == 1 and "lora.target_modules" in ran.said, ran.said
    ran = _train(run_command, base, tmp_path, "lora.rank=2", "lora.target_modules=[embed_tokens]", "max_steps=3")
    assert ran.code == 0, ran.said
    ids = torch.arange(3, 60)[None]
    merged, adapted, before = (
        load_causal_lm(place)(ids).logits for place in (tmp_path / "out", tmp_path / "out" / "adapter", base)
    )
    assert torch.allclose(merged, adapted, atol=1e-5) and not torch.equal(merged, before)


def test_what_could_not_be_saved_is_found_before_the_first_step(tmp_path, tokenizer, run_command):
    base = llama(tmp_path / "base", tokenizer, tie_word_embeddings=True)
    ran = _train(run_command, base, tmp_path, "lora.rank=2", "lora.target_modules=[embed_tokens]")
    assert ran.code == 1 and "tied to the output head" in ran.said, ran.said
    settings = json.loads((base / "generation_config.json").read_text())
    (base / "generation_config.json").write_text(json.dumps({**settings, "do_sample": False, "typical_p": 0.5}))
    ran = _train(run_command, base, tmp_path)
    assert ran.code == 1 and "training does not start" in ran.said, ran.said
    assert not (tmp_path / "out" / "metrics.jsonl").exists() or not (tmp_path / "out" / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_a_refusal_before_the_first_step_ends_every_process(tmp_path, tokenizer):
    base = llama(tmp_path / "base", tokenizer, tie_word_embeddings=True)
    rows = [{"prompt": user(f"name a river {i}"), "completion": assistant("the elbe")} for i in range(4)]
    adapters = config.LoraConfig(rank=2, target_modules=["embed_tokens"])
    asked = config.SFTConfig(learning_rate=1e-3, max_steps=1, lora=adapters)
    two = config.Execution(device="cpu", threads=1, processes=2)
    with pytest.raises(ModelError, match="tied to the output head"):
        train_sft(base, rows, tmp_path / "out", asked, 0, two)
