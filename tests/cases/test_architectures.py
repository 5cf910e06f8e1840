"""Every architecture trains, scores and samples as plain transformers does, or is refused by name before a step.

After TRL, PEFT and transformers reports of single architectures: peft#1457, transformers#45127.
"""

import json
import random
import shutil

import pytest
import torch
from architectures import ARCHITECTURES, make
from made import WORDS, assistant, byte_bpe, user
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from posttrain.config import DPOConfig, Execution, LoraConfig, RewardModelConfig, SFTConfig
from posttrain.core.chat import encode_example, encode_prompt, load_tokenizer, stop_ids
from posttrain.core.errors import PosttrainError
from posttrain.core.models import load_causal_lm, load_reward_model
from posttrain.train.dpo import train_dpo
from posttrain.train.reward_model import train_reward_model
from posttrain.train.sft import train_sft
from reward.score import score_rows
from synth.engines.base import Request, SamplingParams
from synth.engines.transformers import TransformersEngine

pytestmark = pytest.mark.slow

ONE = Execution(device="cpu", threads=1)
# What is refused, and a word of the reason.
NO_ADAPTERS = {
    "mamba": "incompatible", "falcon_mamba": "incompatible", "jamba": "dt_proj", "doge": "dt_proj",
}  # fmt: skip
NO_REWARD_CLASS = {
    "granite", "cohere", "cohere2", "olmoe", "granitemoe", "mamba", "falcon_mamba", "lfm2", "granitemoehybrid",
    "ernie4_5", "llama4", "bitnet", "xglm", "codegen", "rwkv", "recurrent_gemma", "apertus", "vaultgemma",
}  # fmt: skip
NOT_SAMPLED = {
    "bloom", "falcon_alibi", "mpt", "mamba", "falcon_mamba", "rwkv", "qwen3_next", "qwen3_5", "lfm2",
    "granitemoehybrid", "llama4", "jamba", "recurrent_gemma",
}  # fmt: skip


def _words(draw, most):
    return " ".join(draw.choices(WORDS, k=draw.randint(1, most)))


DRAW = random.Random(0)
ROWS = [{"prompt": user(_words(DRAW, 6)), "completion": assistant(_words(DRAW, 30))} for _ in range(6)]
PAIRS = [
    {
        "prompt": user(f"{_words(DRAW, 6)} {number}"),
        "chosen": assistant("yes " + _words(DRAW, 6)),
        "rejected": assistant("no " + _words(DRAW, 6)),
        "prompt_id": f"p{number}",
    }
    for number in range(6)
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root, tokenizer = tmp_path_factory.mktemp("architectures"), byte_bpe()
    return {name: make(root / name, tokenizer, *rest) for name, *rest in ARCHITECTURES}


def _misses(folders, check, refused=()):
    """Run a check on each folder; a refusal is right where it is listed, with its reason, and wrong elsewhere."""
    misses = []
    for name, folder in folders.items():
        try:
            told = check(folder) if name not in refused else "" if _refuses(check, folder, refused, name) else "runs"
        except PosttrainError as error:
            told = f"refused: {error}"
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
        if told:
            misses.append(f"{name}: {' '.join(told.split())[:300]}")
    return misses


def _refuses(check, folder, refused, name):
    try:
        check(folder)
    except PosttrainError as error:
        reason = refused[name] if isinstance(refused, dict) else json.loads((folder / "config.json").read_text())
        return (reason if isinstance(reason, str) else reason["model_type"]) in str(error)
    return False


def _losses(model, tokenizer, rows, key):
    """Give what plain transformers loses on each learned token, one row at a time."""
    for row in rows:
        encoded = encode_example(tokenizer, row["prompt"], row[key])
        logprobs = model(torch.tensor([encoded.ids]), use_cache=False).logits[0].double().log_softmax(-1)
        for place, token in enumerate(encoded.ids):
            if encoded.mask[place]:
                yield -float(logprobs[place - 1, token])


def _first_step(out):
    return json.loads((out / "metrics.jsonl").read_text().splitlines()[0])


@torch.no_grad()
def test_first_losses_are_those_of_plain_transformers(folders, tmp_path):
    def check(folder):
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), load_tokenizer(folder)
        settings = {"learning_rate": 1e-5, "max_steps": 1, "warmup_ratio": 0}
        told = ""
        with torch.enable_grad():
            train_sft(folder, ROWS, tmp_path / "sft", SFTConfig(**settings), 0, ONE)
            train_dpo(folder, PAIRS, tmp_path / "dpo", DPOConfig(**settings, nll_weight=1.0), 0, ONE)
        for kind, value, rows, key in (("sft", "loss", ROWS, "completion"), ("dpo", "loss/nll", PAIRS, "chosen")):
            wanted = list(_losses(model, tokenizer, rows, key))
            got, mean = _first_step(tmp_path / kind)[value], sum(wanted) / len(wanted)
            if not abs(got - mean) <= 2e-5 * max(1.0, mean):
                told += f"{kind} {got} for {mean} "
            shutil.rmtree(tmp_path / kind)
        return told

    assert not _misses(folders, check)


@torch.no_grad()
def test_adapters_are_trained_and_merged(folders, tmp_path):
    def check(folder):
        out = tmp_path / folder.name
        config = SFTConfig(learning_rate=1e-2, max_steps=3, warmup_ratio=0, lora=LoraConfig(rank=2))
        with torch.enable_grad():
            train_sft(folder, ROWS, out, config, 0, ONE)
        ids = torch.arange(3, 40)[None]
        merged, adapted = (load_causal_lm(place)(ids, use_cache=False).logits for place in (out, out / "adapter"))
        base = load_causal_lm(folder)(ids, use_cache=False).logits
        shutil.rmtree(out)
        limit = 1e-4 * float(merged.abs().max().clamp(min=1))
        return "" if (merged - adapted).abs().max() <= limit < (merged - base).abs().max() else "another model"

    assert not _misses(folders, check, NO_ADAPTERS)


@torch.no_grad()
def test_reward_models_score_as_their_class_does(folders, tmp_path):
    def check(folder):
        out = tmp_path / folder.name
        config = RewardModelConfig(learning_rate=1e-4, max_steps=1, warmup_ratio=0, held_out=0.2, min_pairs=1)
        with torch.enable_grad():
            train_reward_model(folder, PAIRS, out, config, 0, ONE)
        tokenizer = load_tokenizer(out)
        plain = AutoModelForSequenceClassification.from_pretrained(out, dtype=torch.float32).eval()
        wanted = [
            float(plain(torch.tensor([encode_example(tokenizer, row["prompt"], row["completion"]).ids])).logits[0, 0])
            for row in ROWS
        ]
        got = [row["score"] for row in score_rows(ROWS, load_reward_model(out), tokenizer)]
        shutil.rmtree(out)
        far = max(abs(a - b) for a, b in zip(got, wanted, strict=True))
        return "" if far <= 1e-4 * max(1.0, *map(abs, wanted)) else f"scores are off by {far}"

    assert not _misses(folders, check, NO_REWARD_CLASS)


@torch.no_grad()
def test_greedy_samples_are_the_likeliest_tokens(folders):
    def check(folder):
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), load_tokenizer(folder)
        prompts = [encode_prompt(tokenizer, user(text)) for text in ("name a river", "red green blue cat bird " * 3)]
        params = SamplingParams(0.0, 1.0, 0, 16, stop_ids=tuple(stop_ids(tokenizer, folder)))
        asked = [Request(str(n), tuple(ids), (), seeds=(1,), sample_indices=(0,)) for n, ids in enumerate(prompts)]
        got = {sample.key: list(sample.ids) for sample in TransformersEngine(folder).generate(asked, params)}
        for number, prompt in enumerate(prompts):
            ids = list(prompt)
            while len(ids) < len(prompt) + 16 and (ids == prompt or ids[-1] not in params.stop_ids):
                ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            if got[str(number)] != ids[len(prompt) :]:
                return f"{got[str(number)]} for {ids[len(prompt) :]}"
        return ""

    assert not _misses(folders, check, NOT_SAMPLED)
