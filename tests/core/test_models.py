import json
import math
import shutil
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from posttrain.core.batching import pad_left, pad_right
from posttrain.core.chat import load_tokenizer
from posttrain.core.errors import ModelError
from posttrain.core.model_files import check_model_dir, model_hash, resolve
from posttrain.core.models import (
    init_reward_model,
    load_causal_lm,
    load_config,
    load_reward_model,
    merge_adapter,
    save_model,
)

IDS = torch.tensor([[2, 4, 18, 7, 26, 6, 5, 42, 6]])


def copy(folder, tmp_path, name="copy"):
    return shutil.copytree(folder, tmp_path / name)


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def adapter_dir(tiny_model_dir, tiny_tokenizer, tmp_path):
    model = get_peft_model(load_causal_lm(tiny_model_dir), LoraConfig(r=4, task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(3)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.5, generator=generator)
    model.peft_config["default"].base_model_name_or_path = str(tiny_model_dir)
    model.save_pretrained(tmp_path / "adapter")
    tiny_tokenizer.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_a_copy_has_the_same_hash_and_any_change_of_content_another(tiny_model_dir, tmp_path):
    folder = copy(tiny_model_dir, tmp_path)
    name = model_hash(tiny_model_dir)
    assert model_hash(folder) == name and len(name) == 16
    (folder / "model.safetensors").touch()
    (folder / "README.md").write_text("notes")
    assert model_hash(folder) == name
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    changed = model_hash(folder)
    assert changed != name
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-3
    save_file(weights, folder / "model.safetensors")
    assert model_hash(folder) not in (name, changed)


def test_an_adapter_is_named_by_the_content_of_its_base(adapter_dir, tiny_model_dir, tmp_path):
    name = model_hash(adapter_dir)
    base = copy(tiny_model_dir, tmp_path, "moved base")
    edit_json(adapter_dir / "adapter_config.json", base_model_name_or_path=str(base))
    assert model_hash(adapter_dir) == name
    edit_json(base / "config.json", rms_norm_eps=1e-3)
    assert model_hash(adapter_dir) != name


def test_check_lists_all_faults_at_once(tiny_model_dir, tmp_path):
    check_model_dir(tiny_model_dir)
    folder = copy(tiny_model_dir, tmp_path)
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"):
        (folder / name).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(ModelError) as error:
        check_model_dir(folder)
    for word in ("4 faults", "config.json", ".bin", "tokenizer.json", "chat template"):
        assert word in str(error.value)
    with pytest.raises(ModelError, match="no such folder"):
        check_model_dir(tmp_path / "nowhere")


def test_check_finds_weights_that_broke_off_and_shards_that_lack(tiny_model_dir, tmp_path):
    folder = copy(tiny_model_dir, tmp_path)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ModelError, match=f"{len(whole) - 100} bytes where its header asks for {len(whole)}"):
        check_model_dir(folder)
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match="no safetensors file or broke off"):
        check_model_dir(folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    with pytest.raises(ModelError, match="no one.safetensors, which the index names"):
        check_model_dir(folder)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("model.safetensors", b"\x03" + bytes(7) + b"[1]", "a header that describes no weights"),
        ("model.safetensors", b"\x07" + bytes(7) + b'{"a":3}', "a header that describes no weights"),
        ("model.safetensors.index.json", b'{"weight_map": []}', "names no weights"),
        ("generation_config.json", b"[]", "generation_config.json holds no JSON object"),
        ("adapter_config.json", b'{"base_model_name_or_path": 3}', "its base model 3 is no folder"),
    ],
)
def test_check_names_files_of_another_form(tiny_model_dir, tmp_path, name, content, told):
    folder = copy(tiny_model_dir, tmp_path)
    if name == "model.safetensors.index.json":  # nobody reads an index beside the single file
        (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=told):
        check_model_dir(folder)


@pytest.mark.parametrize("change", [{"model_type": "unheard"}, {"num_attention_heads": 7}, {"hidden_size": "wide"}])
def test_a_configuration_that_cannot_be_read_is_a_model_error(tiny_model_dir, tmp_path, change):
    folder = copy(tiny_model_dir, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match="no model configuration can be loaded"):
        load_config(folder)


def test_checking_and_naming_a_model_loads_no_torch(tiny_model_dir):
    code = (
        "import sys; from posttrain.core.model_files import check_model_dir, model_hash\n"
        f"check_model_dir({str(tiny_model_dir)!r}); model_hash({str(tiny_model_dir)!r})\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_weights_are_an_error(tiny_model_dir, tmp_path):
    folder = copy(tiny_model_dir, tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks 1 weights.*layers.1.mlp.up_proj.weight"):
        load_causal_lm(folder)
    with pytest.raises(ModelError, match="unknown dtype 'fp32'"):
        load_causal_lm(tiny_model_dir, "fp32")
    with pytest.raises(ModelError, match="no model"):
        load_causal_lm(tmp_path)


def test_pickled_weights_are_not_loaded(tiny_model_dir, tmp_path):
    folder = copy(tiny_model_dir, tmp_path)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        load_causal_lm(folder)


def test_a_language_model_loads_ready_to_sample(tiny_model_dir, tmp_path):
    folder = copy(tiny_model_dir, tmp_path)
    edit_json(folder / "config.json", attention_dropout=0.5)
    model = load_causal_lm(folder)
    assert not model.training and model.dtype == torch.float32
    model.train()
    first, second = model(input_ids=IDS).logits, model(input_ids=IDS).logits
    assert torch.equal(first, second)
    assert load_causal_lm(folder, "bfloat16").dtype == torch.bfloat16


def test_a_reward_model_without_its_head_is_refused(tiny_model_dir, tiny_reward_model_dir, tmp_path):
    with pytest.raises(ModelError):
        load_reward_model(tiny_model_dir)
    folder = copy(tiny_reward_model_dir, tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks 1 weights.*score.weight"):
        load_reward_model(folder)


def test_a_reward_model_with_two_scores_or_no_padding_is_refused(tiny_reward_model_dir, tmp_path):
    folder = copy(tiny_reward_model_dir, tmp_path)
    edit_json(folder / "config.json", pad_token_id=None)
    with pytest.raises(ModelError, match="pad_token_id"):
        load_reward_model(folder)
    edit_json(folder / "config.json", id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1}, num_labels=2)
    with pytest.raises(ModelError, match="gives 2 numbers"):
        load_reward_model(folder)


def test_the_head_computes_in_float32_on_a_bfloat16_body(tiny_reward_model_dir):
    model = load_reward_model(tiny_reward_model_dir, "bfloat16")
    stored = load_file(tiny_reward_model_dir / "model.safetensors")["score.weight"]
    assert model.model.embed_tokens.weight.dtype == torch.bfloat16
    assert torch.equal(model.score.weight, stored)  # not rounded to bfloat16 on the way
    score = model(input_ids=IDS).logits.detach()
    assert score.dtype == torch.float32 and float(score) != float(score.bfloat16())


def test_a_score_does_not_depend_on_padding(tiny_reward_model_dir):
    model = load_reward_model(tiny_reward_model_dir)
    rows = [[2, 4, 18, 6, 5, 42, 6], [2, 4, 6, 5, 33, 34, 35, 36, 37, 6]]
    with torch.no_grad():
        alone = [float(model(input_ids=torch.tensor([row])).logits) for row in rows]
        for pad in (pad_left, pad_right):
            ids, mask = pad(rows, model.config.pad_token_id)
            together = model(input_ids=ids, attention_mask=mask).logits[:, 0].tolist()
            assert together == pytest.approx(alone, abs=1e-5)


def test_a_new_reward_model_has_the_body_and_a_seeded_head(tiny_model_dir):
    state = torch.random.get_rng_state()
    first, again, other = (init_reward_model(tiny_model_dir, seed) for seed in (7, 7, 8))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.score.weight, again.score.weight)
    assert not torch.equal(first.score.weight, other.score.weight)
    assert first.score.weight.shape == (1, 32) and 0.01 < float(first.score.weight.detach().std()) < 0.03
    assert torch.equal(first.model.norm.weight, load_causal_lm(tiny_model_dir).model.norm.weight)
    assert first.config.pad_token_id == load_tokenizer(tiny_model_dir).pad_token_id == 0


def test_a_reward_model_keeps_its_head_as_a_start(tiny_reward_model_dir):
    stored = load_file(tiny_reward_model_dir / "model.safetensors")["score.weight"]
    assert torch.equal(init_reward_model(tiny_reward_model_dir, 3).score.weight, stored)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_saved_reward_model_scores_the_same(tiny_model_dir, tiny_tokenizer, tmp_path, dtype):
    model = init_reward_model(tiny_model_dir, 5, dtype)
    save_model(model, tiny_tokenizer, tmp_path / "rm")
    check_model_dir(tmp_path / "rm")
    with torch.no_grad():
        # The loaded model's layers are packed for the processor, and may add up in another order.
        loaded = load_reward_model(tmp_path / "rm", dtype)
        torch.testing.assert_close(loaded(input_ids=IDS).logits, model(input_ids=IDS).logits)
    stored, kept = load_file(tmp_path / "rm" / "model.safetensors"), model.state_dict()
    assert stored.keys() == kept.keys() and all(torch.equal(stored[name], kept[name]) for name in kept)


def test_a_saved_model_is_a_whole_folder_that_stops_and_caches(tiny_model_dir, tiny_tokenizer, tmp_path):
    model = load_causal_lm(tiny_model_dir)
    model.config.use_cache = False
    model.forward = lambda *args, **kwargs: None  # as a trainer's patch leaves it
    save_model(model, tiny_tokenizer, tmp_path / "out")
    check_model_dir(tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["use_cache"] is True
    stops = json.loads((tmp_path / "out/generation_config.json").read_text())["eos_token_id"]
    assert tiny_tokenizer.convert_tokens_to_ids("<|end|>") in stops
    assert not list((tmp_path / "out").glob("*.bin"))
    assert load_tokenizer(tmp_path / "out").chat_template == tiny_tokenizer.chat_template
    with torch.no_grad():
        wanted = load_causal_lm(tiny_model_dir)(input_ids=IDS).logits
        torch.testing.assert_close(model(input_ids=IDS).logits, wanted)
        assert torch.equal(load_causal_lm(tmp_path / "out")(input_ids=IDS).logits, wanted)


def test_a_generation_config_that_transformers_refuses_is_mended(tiny_model_dir, tiny_tokenizer, tmp_path):
    model = load_causal_lm(tiny_model_dir)
    model.generation_config.temperature = 0.6
    save_model(model, tiny_tokenizer, tmp_path / "out")
    saved = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert saved["temperature"] == 0.6 and saved["do_sample"] is True


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_model_is_not_saved(tiny_model_dir, tiny_tokenizer, tmp_path, bad):
    model = load_causal_lm(tiny_model_dir)
    model.model.norm.weight.data[3] = bad
    with pytest.raises(ModelError, match="model.norm.weight is empty, NaN or infinite"):
        save_model(model, tiny_tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_merging_an_adapter_keeps_the_logits(adapter_dir, tiny_model_dir, tmp_path):
    assert merge_adapter(adapter_dir, tmp_path / "merged") <= 1e-4
    check_model_dir(tmp_path / "merged")
    with torch.no_grad():
        base, adapted, merged = (
            load_causal_lm(folder)(input_ids=IDS).logits
            for folder in (tiny_model_dir, adapter_dir, tmp_path / "merged")
        )
    assert torch.allclose(adapted, merged, atol=1e-5)
    assert float((adapted - base).abs().max()) > 1e-3
    with pytest.raises(ModelError, match="nothing to merge"):
        merge_adapter(tiny_model_dir, tmp_path / "other")


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_adapter_weights_missing_or_unknown_are_an_error(adapter_dir, change):
    path = adapter_dir / "adapter_model.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    weights["base_model.model.nobody.lora_A.weight"] = weights[name].clone()
    if change == "missing":
        del weights[name], weights["base_model.model.nobody.lora_A.weight"]
    save_file(weights, path)
    with pytest.raises(ModelError, match="1 adapter weights missing or unknown"):
        load_causal_lm(adapter_dir)


def test_an_adapter_whose_base_moved_says_so(adapter_dir):
    edit_json(adapter_dir / "adapter_config.json", base_model_name_or_path="/nowhere/base")
    for use in (check_model_dir, load_causal_lm, model_hash):
        with pytest.raises(ModelError, match="/nowhere/base"):
            use(adapter_dir)


def test_a_reward_model_starts_from_an_adapter_and_an_adapter_can_be_one(
    adapter_dir, tiny_model_dir, tiny_tokenizer, tmp_path
):
    model = init_reward_model(adapter_dir, 1)
    assert torch.equal(
        model.model.layers[0].self_attn.q_proj.weight,
        load_causal_lm(adapter_dir).model.layers[0].self_attn.q_proj.weight,
    )
    tuned = get_peft_model(
        init_reward_model(tiny_model_dir, 1), LoraConfig(r=2, task_type="SEQ_CLS", modules_to_save=["score"])
    )
    tuned.peft_config["default"].base_model_name_or_path = str(tiny_model_dir)
    tuned.save_pretrained(tmp_path / "rm_adapter")
    tiny_tokenizer.save_pretrained(tmp_path / "rm_adapter")
    with torch.no_grad():
        wanted = float(tuned(input_ids=IDS).logits)
        assert float(load_reward_model(tmp_path / "rm_adapter")(input_ids=IDS).logits) == pytest.approx(
            wanted, abs=1e-6
        )


def test_a_model_is_a_folder_or_a_pinned_revision(tiny_model_dir, tmp_path):
    assert resolve(str(tiny_model_dir), None) == tiny_model_dir
    with pytest.raises(ModelError, match="has no revision"):
        resolve(str(tiny_model_dir), "main")
    with pytest.raises(ModelError, match="no such folder"):
        resolve(str(tmp_path / "nowhere"), None)
    for revision in (None, "main", "abc123"):
        with pytest.raises(ModelError, match="40 hex digits"):
            resolve("owner/name", revision)
    with pytest.raises(ModelError, match="not in the local cache"):
        resolve("owner/name", "0" * 40)
