"""Folders mean one model to every reader: MarinFold#184, vllm#42624, vllm#54230, ms-swift#8186, unsloth#8444."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from architectures import ARCHITECTURES, make
from made import assistant, byte_bpe, llama, user, write_rows
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from posttrain.core.errors import ModelError
from posttrain.core.model_files import model_hash, weight_files
from posttrain.core.model_saving import save_model
from posttrain.core.models import load_causal_lm, load_reward_model
from posttrain.train.average import average_checkpoints
from posttrain.train.distill import check_vocabularies
from posttrain.train.rankings import as_rankings
from posttrain.train.reward_model import split_by_prompt

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 128}


@pytest.fixture(scope="module")
def tokenizer():
    return byte_bpe(extra_special_tokens=["<|tool|>"])


def _models(tokenizer):
    """Make models whose angles older readers take from other names: (name, model)."""
    import transformers as t

    small = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "head_dim": 8,
        "pad_token_id": 0, "eos_token_id": 2, "bos_token_id": None,
    }  # fmt: skip
    by_layer = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    }
    neox = {key: value for key, value in small.items() if key not in ("num_key_value_heads", "head_dim")}
    yield "llama3", t.LlamaForCausalLM(t.LlamaConfig(**small, rope_parameters=dict(LLAMA3)))
    yield (
        "theta",
        t.LlamaForCausalLM(t.LlamaConfig(**small, rope_parameters={"rope_type": "default", "rope_theta": 3e5})),
    )
    yield "yarn", t.Qwen2ForCausalLM(t.Qwen2Config(**small, rope_parameters=dict(YARN)))
    yield (
        "gemma3",
        t.Gemma3ForCausalLM(
            t.Gemma3TextConfig(
                **small,
                rope_parameters=by_layer,
                sliding_window=16,
                layer_types=["sliding_attention", "full_attention"],
            )
        ),
    )
    yield (
        "neox",
        t.GPTNeoXForCausalLM(
            t.GPTNeoXConfig(
                **neox, rope_parameters={"rope_type": "default", "rope_theta": 2e4, "partial_rotary_factor": 0.5}
            )
        ),
    )


def test_a_saved_folder_names_its_angles_as_older_readers_look_for_them(tmp_path, tokenizer):
    for name, model in _models(tokenizer):
        save_model(model, tokenizer, tmp_path / name)
    said = {
        name: json.loads((tmp_path / name / "config.json").read_text())
        for name in ("llama3", "theta", "yarn", "gemma3", "neox")
    }
    assert said["llama3"]["rope_theta"] == 500000.0
    assert said["llama3"]["rope_scaling"]["low_freq_factor"] == 1.0
    assert said["theta"]["rope_theta"] == 3e5 and "rope_scaling" not in said["theta"]
    assert said["yarn"]["rope_scaling"]["rope_type"] == "yarn"
    assert (said["gemma3"]["rope_theta"], said["gemma3"]["rope_local_base_freq"]) == (1e6, 10000.0)
    assert (said["neox"]["rotary_emb_base"], said["neox"]["rotary_pct"]) == (2e4, 0.5)
    for name, model in _models(tokenizer):  # and this reader still reads what was saved
        assert (
            AutoModelForCausalLM.from_pretrained(tmp_path / name).config.rope_parameters == model.config.rope_parameters
        )
    saved = json.loads((tmp_path / "theta" / "tokenizer_config.json").read_text())
    assert saved["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert isinstance(saved.get("extra_special_tokens", {}), dict)
    again = AutoTokenizer.from_pretrained(tmp_path / "theta")
    assert again("the <|tool|> fox")["input_ids"] == tokenizer("the <|tool|> fox")["input_ids"]


_READER = """
import sys, torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
assert transformers.__version__.startswith("4.57"), transformers.__version__
for folder in sys.argv[1:]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template and tokenizer.pad_token and tokenizer("the <|tool|> fox").input_ids
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.save(model(torch.arange(3, 200)[None]).logits.detach(), folder + ".pt")
"""


@pytest.mark.slow
def test_transformers_4_reads_every_kind_of_saved_folder(tmp_path, tokenizer, run_command):
    """Trained, merged, averaged: the logits of transformers 4.57 are those of this version."""
    from real_models import older_reader  # tests/cases/conftest.py says where it is

    place = older_reader()
    if not place.is_dir():
        pytest.skip(f"no {place}; fetch it with: python tests/real/real_models.py")
    base = llama(tmp_path / "base", tokenizer, rope_parameters=dict(LLAMA3))
    rows = [{"prompt": user(f"name a river {i}"), "completion": assistant("the elbe")} for i in range(4)]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    folders = []
    for name, options in {"trained": [], "merged": ["lora.rank=2"]}.items():
        out = tmp_path / name
        asked = ("--model", base, "--data", data, "--out", out, "max_steps=1", "learning_rate=1e-3", *options)
        ran = run_command("train", "sft", *asked)
        assert ran.code == 0, ran.said
        folders.append(out)
    average_checkpoints(folders, tmp_path / "averaged")
    folders.append(tmp_path / "averaged")
    for name, model in _models(tokenizer):
        save_model(model, tokenizer, tmp_path / f"saved_{name}")
        folders.append(tmp_path / f"saved_{name}")
    subprocess.run(
        [sys.executable, "-c", _READER, *map(str, folders)], env={**os.environ, "PYTHONPATH": str(place)}, check=True
    )
    for folder in folders:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        with torch.no_grad():
            now = model(torch.arange(3, 200)[None]).logits
        assert float((now - torch.load(f"{folder}.pt")).abs().max()) < 1e-4, folder.name


@pytest.fixture(scope="module")
def twice_saved(tmp_path_factory, tokenizer):
    """Make `both`: shards of A with a later single file of B; and A, B by themselves; language and reward models."""
    root = tmp_path_factory.mktemp("twice")
    for head, loader, name in (
        ("CausalLM", AutoModelForCausalLM, "lm"), ("SequenceClassification", AutoModelForSequenceClassification, "rm"),
    ):  # fmt: skip
        for seed, side in enumerate("AB", start=1):
            model = loader.from_pretrained(llama(root / f"{name}_{side}", tokenizer, seed=seed, head=head))
            if head == "SequenceClassification":
                torch.nn.init.normal_(model.score.weight)
                model.save_pretrained(root / f"{name}_{side}")
            if side == "A":
                model.save_pretrained(root / f"{name}_both", max_shard_size="20KB")
        tokenizer.save_pretrained(root / f"{name}_both")
        shutil.copy(root / f"{name}_B" / "model.safetensors", root / f"{name}_both")
    shutil.copytree(root / "lm_B", root / "stray")
    shutil.copy(root / "lm_A" / "model.safetensors", root / "stray" / "consolidated.safetensors")
    return root


def test_of_two_sets_of_weights_the_one_that_transformers_reads_is_read_everywhere(twice_saved, tmp_path):
    both, b = twice_saved / "lm_both", twice_saved / "lm_B"
    weight = "model.layers.0.mlp.up_proj.weight"
    plain = AutoModelForCausalLM.from_pretrained(both).state_dict()[weight]
    assert torch.equal(load_causal_lm(both).state_dict()[weight], plain)
    assert [path.name for path in weight_files(both)] == ["model.safetensors"]
    assert model_hash(both) == model_hash(twice_saved / "stray") == model_hash(b)
    average_checkpoints([both, b], tmp_path / "average")
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "average").state_dict()[weight], plain)


def test_the_head_of_a_reward_model_is_of_the_same_set_as_its_body(twice_saved):
    head, wanted = (load_reward_model(twice_saved / name).score.weight for name in ("rm_both", "rm_B"))
    assert torch.equal(head, wanted)


def test_rows_of_one_prompt_fall_on_one_side_whatever_their_ids():
    """HUST-NingKang-Lab/BGC-Prophet#8: rows of one text on both sides of a split."""
    rows = [
        {"prompt": user(f"name a river{' ' * (1 + k % 2)}number {i}"), "prompt_id": f"row-{i}-{k}",
         "chosen": assistant("yes"), "rejected": assistant("no")}
        for i in range(40) for k in range(4)
    ]  # fmt: skip
    kept, held = split_by_prompt(as_rankings(rows), 0.1)
    texts = [{" ".join(row["prompt"][0]["content"].split()) for row in side} for side in (kept, held)]
    assert len(held) == 16 and len(texts[1]) == 4
    assert not texts[0] & texts[1]


def test_flags_of_a_run_and_fields_left_out_do_not_part_a_parent_from_its_child(tmp_path, tokenizer):
    one, other = llama(tmp_path / "one", tokenizer, seed=1), llama(tmp_path / "other", tokenizer, seed=2)
    config = json.loads((other / "config.json").read_text())
    del config["attention_bias"], config["initializer_range"]
    (other / "config.json").write_text(json.dumps({**config, "output_router_logits": True, "use_cache": False}))
    assert average_checkpoints([one, other], tmp_path / "mean")["num_models"] == 2


def test_models_of_two_templates_are_neither_averaged_nor_distilled(tmp_path, tokenizer):
    one, other = llama(tmp_path / "one", tokenizer, seed=1), llama(tmp_path / "other", tokenizer, seed=2)
    template = tokenizer.chat_template
    (other / "chat_template.jinja").write_text(template + "{# a comment #}\n")
    average_checkpoints([one, other], tmp_path / "mean")  # prints alike
    (other / "chat_template.jinja").write_text(template.replace("<|im_start|>{{ m", "<|im_start|>role: {{ m"))
    with pytest.raises(ModelError, match="print a conversation in two ways"):
        average_checkpoints([one, other], tmp_path / "mean2")
    with pytest.raises(ModelError, match="give the student the teacher's template"):
        check_vocabularies(AutoTokenizer.from_pretrained(one), AutoTokenizer.from_pretrained(other), one, other)


def test_a_trained_folder_says_what_its_base_said_and_is_averaged_with_it(tmp_path, tokenizer, run_command):
    """Trainers set router logits, a coefficient and special tokens on the configuration."""
    rows = [{"prompt": user(f"name a river {i}"), "completion": assistant("the elbe")} for i in range(4)]
    pairs = [
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": assistant("a fish"), "prompt_id": f"p{i}"}
        for i, row in enumerate(rows)
    ]
    data = {"sft": write_rows(tmp_path / "rows", rows), "dpo": write_rows(tmp_path / "pairs", pairs)}
    for_older_readers = {"rope_theta", "torch_dtype", "rope_scaling"}
    faults = []
    for name, config_class, usual, settings in ARCHITECTURES:
        if name not in ("mixtral", "qwen3_moe"):
            continue
        base = make(tmp_path / name, tokenizer, config_class, usual, {**settings, "pad_token_id": None})
        before = json.loads((base / "config.json").read_text())
        for kind in data:
            for adapters in ([], ["lora.rank=2"]):
                out = tmp_path / f"{name}-{kind}-{len(adapters)}"
                asked = ("--model", base, "--data", data[kind], "--out", out, "max_steps=1", "learning_rate=1e-3")
                ran = run_command("train", kind, *asked, *adapters)
                if ran.code:
                    faults.append((out.name, ran.said[-300:]))
                    continue
                after = json.loads((out / "config.json").read_text())
                changed = {
                    key: (before.get(key), after.get(key)) for key in (before.keys() | after.keys()) - for_older_readers
                }
                faults += [(out.name, key, *both) for key, both in changed.items() if both[0] != both[1]]
                average_checkpoints([base, out], tmp_path / f"mean-{out.name}")
    assert not faults
