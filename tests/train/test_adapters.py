"""Adapters know their base, merge in float32 into what lies on disk, and come back the same."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from training_data import completion_rows, preference_rows

from posttrain.cli import main
from posttrain.config import DPOConfig, Execution, SFTConfig
from posttrain.core.errors import ModelError
from posttrain.core.model_files import model_hash
from posttrain.core.models import init_reward_model, load_causal_lm, load_reward_model, merge_adapter, save_model
from posttrain.train.adapters import float32_adapters, merge_checked, merge_from_disk, save_adapter
from posttrain.train.dpo import train_dpo
from posttrain.train.errors import TrainError
from posttrain.train.saving import save_trained
from posttrain.train.sft import train_sft

ROOT = Path(__file__).parents[2]
CPU = Execution(device="cpu", threads=1)
PROBE = [2, 4, 18, 7, 26, 6, 5, 42, 6]


def adapted(model, task="CAUSAL_LM", seed=3):
    """Put adapters above a model, the same for the same seed, with B matrices that are not zero."""
    torch.manual_seed(seed)
    saved = {"modules_to_save": ["score"]} if task == "SEQ_CLS" else {}
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type=task, **saved))
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.copy_(torch.empty(weight.shape).normal_(0.0, 0.1, generator=generator))
    return model.eval()


@torch.no_grad()
def outputs(model):
    return model(input_ids=torch.tensor([PROBE])).logits


@pytest.fixture
def base(tiny_model_dir, tmp_path):
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "base"))


@pytest.fixture
def adapter(base, tiny_tokenizer, tmp_path):
    save_adapter(adapted(load_causal_lm(base)), tiny_tokenizer, tmp_path / "adapter", base, model_hash(base))
    return tmp_path / "adapter"


def change_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1.0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_an_adapter_is_refused_above_another_base(adapter, base, tmp_path):
    load_causal_lm(adapter)
    change_a_weight(base)
    dpo = DPOConfig(max_steps=1, global_batch_size=2)
    uses = (
        lambda: load_causal_lm(adapter),
        lambda: load_reward_model(adapter),
        lambda: init_reward_model(adapter, 0),
        lambda: merge_adapter(adapter, tmp_path / "merged"),
        lambda: train_dpo(adapter, preference_rows(2), tmp_path / "dpo", dpo, 0, CPU),
    )
    told = f"trained above a model with hash [0-9a-f]{{16}}, but its base {base} now has hash"
    for use in uses:
        with pytest.raises(ModelError, match=told):
            use()
    assert not (tmp_path / "merged").exists() and not (tmp_path / "dpo" / "model.safetensors").exists()


def test_sampling_and_scoring_from_an_adapter_refuse_another_base(adapter, base, tmp_path, capsys):
    change_a_weight(base)
    rows = [{"prompt_id": f"p{n}", "sample_index": 0, **row} for n, row in enumerate(completion_rows(2))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--out", str(tmp_path / "out"), "--device", "cpu"]
    sampling = ["--num-completions", "1", "--temperature", "1", "--max-completion-tokens", "4", "--seed", "0"]
    prompts = ["--prompts", str(tmp_path / "rows.jsonl")]
    assert main(["sample", "--model", str(adapter), *prompts, *sampling, *given]) == 1
    assert "was trained above a model with hash" in capsys.readouterr().err
    completions = ["--completions", str(tmp_path / "rows.jsonl")]
    assert main(["score", "--reward-model", str(adapter), *completions, *given]) == 1
    assert "was trained above a model with hash" in capsys.readouterr().err


def test_the_base_may_lie_elsewhere_but_its_tokenizer_counts(adapter, base, tmp_path):
    moved = base.rename(tmp_path / "moved")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(moved)}))
    load_causal_lm(adapter)
    (moved / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(ModelError, match="weights, configuration or tokenizer were changed"):
        load_causal_lm(adapter)


def test_an_adapter_of_another_tool_is_let_through_with_a_warning(adapter, base):
    (adapter / "base.json").unlink()
    change_a_weight(base)
    with pytest.warns(UserWarning, match="has no base.json, so nothing says whether it was trained above"):
        load_causal_lm(adapter)
    (adapter / "base.json").write_text("[]")
    with pytest.raises(ModelError, match="base.json holds no JSON object"):
        load_causal_lm(adapter)


RELOAD = """
import json, sys, torch
from posttrain.core.models import load_causal_lm
ids = torch.tensor([json.loads(sys.argv[1])])
with torch.no_grad():
    print(json.dumps([load_causal_lm(folder)(input_ids=ids).logits.tolist() for folder in sys.argv[2:]]))
"""


@pytest.mark.slow
def test_another_process_reads_the_same_logits_from_the_adapter_and_from_the_merged_model(
    base, tiny_tokenizer, tmp_path
):
    model = adapted(load_causal_lm(base))
    wanted = outputs(model)
    save_adapter(model, tiny_tokenizer, tmp_path / "adapter", base, model_hash(base))
    save_model(merge_checked(model, PROBE, tmp_path / "adapter"), tiny_tokenizer, tmp_path / "merged")
    folders = [str(tmp_path / "adapter"), str(tmp_path / "merged")]
    command = [sys.executable, "-c", RELOAD, json.dumps(PROBE), *folders]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    from_adapter, from_merged = (torch.tensor(logits) for logits in json.loads(run.stdout))
    assert float((from_adapter - wanted).abs().max()) < 1e-5
    assert float((from_merged - wanted).abs().max()) < 1e-5
    assert float((outputs(load_causal_lm(base)) - wanted).abs().max()) > 1e-2


def test_training_notes_the_base_that_it_started_from(base, tmp_path):
    lora = {"rank": 4, "alpha": 8.0}
    config = SFTConfig(learning_rate=1e-2, max_steps=4, global_batch_size=4, lora=lora)
    train_sft(base, completion_rows(8), tmp_path / "out", config, 0, CPU)
    note = json.loads((tmp_path / "out/adapter/base.json").read_text())
    assert note == {"model_hash": model_hash(base)}
    again, merged = outputs(load_causal_lm(tmp_path / "out/adapter")), outputs(load_causal_lm(tmp_path / "out"))
    assert float((again - merged).abs().max()) < 1e-5
    assert float((again - outputs(load_causal_lm(base))).abs().max()) > 1e-3


def round_weights(model):
    """Leave 4 bits of each weight of a block, about as nf4 does: the adapters then stand above other weights."""
    for name, weight in model.named_parameters():
        if "proj" in name and "lora" not in name:
            scale = weight.abs().max() / 7
            weight.data = (weight.data / scale).round() * scale
    return model


@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_CLS"])
def test_adapters_trained_above_rounded_weights_merge_into_the_unrounded_ones(base, tiny_tokenizer, tmp_path, task):
    is_reward = task == "SEQ_CLS"
    load = (lambda: init_reward_model(base, 5)) if is_reward else (lambda: load_causal_lm(base))
    trained = adapted(round_weights(load()), task)
    trained.get_base_model().is_loaded_in_4bit = True  # as bitsandbytes marks a model
    accelerator = SimpleNamespace(unwrap_model=lambda model, keep_fp32_wrapper: model)
    trainer = SimpleNamespace(model=trained, is_world_process_zero=lambda: True, accelerator=accelerator)
    save_trained(trainer, tiny_tokenizer, base, tmp_path / "out", PROBE, model_hash(base))
    exact = adapted(load(), task)  # the same adapters above the float32 weights
    merged = (load_reward_model if is_reward else load_causal_lm)(tmp_path / "out")
    assert float((outputs(merged) - outputs(exact)).abs().max()) < 1e-5
    assert float((outputs(merged) - outputs(trained)).abs().max()) > 1e-3  # what rounding had changed
    name = "model.layers.0.mlp.up_proj.weight"
    update = load_file(tmp_path / "out/model.safetensors")[name] - load_file(base / "model.safetensors")[name]
    assert torch.linalg.matrix_rank(update, atol=1e-4) == 4  # of the adapters alone: no rounding is in it


def test_a_base_that_changed_during_training_is_not_merged(base, tiny_tokenizer, tmp_path):
    started_from = model_hash(base)
    model = adapted(load_causal_lm(base))
    change_a_weight(base)
    save_adapter(model, tiny_tokenizer, tmp_path / "adapter", base, started_from)
    with pytest.raises(ModelError, match="trained above a model with hash"):
        merge_from_disk(tmp_path / "adapter", model, PROBE)


def test_empty_adapter_weights_are_not_saved_for_good(base, tiny_tokenizer, tmp_path):
    model = adapted(load_causal_lm(base))
    state = model.state_dict()
    state |= {name: torch.empty(0) for name in state if "up_proj.lora_B" in name}
    with pytest.raises(TrainError, match=r"lacks 2 of 28 adapter weights .*0.mlp.up_proj.lora_B"):
        save_adapter(model, tiny_tokenizer, tmp_path / "adapter", base, model_hash(base), state)


def test_adapters_get_float32_back(base):
    model = adapted(load_causal_lm(base, "bfloat16")).to(torch.bfloat16)
    float32_adapters(model)
    kinds = {("lora_" in name, weight.dtype) for name, weight in model.named_parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
