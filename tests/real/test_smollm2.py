"""SmolLM2-135M-Instruct through posttrain gives what plain transformers gives, bit of rounding apart."""

from __future__ import annotations

import json
import math

import pytest
import torch
from real_models import smollm2
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from posttrain.config import DPOConfig, LoraConfig, RewardModelConfig, SFTConfig
from posttrain.core.chat import encode_example, encode_prompt, load_tokenizer, stop_ids
from posttrain.core.models import load_reward_model

pytestmark = pytest.mark.slow

QUESTIONS = {
    "Name three primary colours.": ("Red, yellow and blue.", "I do not know."),
    "What is the capital of France?": ("The capital of France is Paris.", "London"),
    "Write a haiku about rain.": (
        "Soft rain on the roof\nthe garden drinks in silence\nmorning lifts the grey",
        "Rain.",
    ),
    "What is 17 + 25?": ("42", "It is 41, I think."),
}
STEP = {"learning_rate": 1e-12, "max_steps": 1, "global_batch_size": 4, "warmup_ratio": 0.0, "logging_steps": 1}


def say(role, text):
    return [{"role": role, "content": text}]


PAIRS = [
    {"prompt": say("user", question), "chosen": say("assistant", good), "rejected": say("assistant", bad)}
    for question, (good, bad) in QUESTIONS.items()
]
ROWS = [{"prompt": pair["prompt"], "completion": pair["chosen"]} for pair in PAIRS]


@pytest.fixture(scope="module")
def folder():
    try:
        return smollm2()
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


def first_metrics(folder):
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])


def test_the_first_loss_is_that_of_transformers(folder, tokenizer, tmp_path):
    from posttrain.train.sft import train_sft

    train_sft(folder, ROWS, tmp_path, SFTConfig(**STEP), seed=0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    total, count = 0.0, 0
    for row in ROWS:
        encoded = encode_example(tokenizer, row["prompt"], row["completion"])
        with torch.no_grad():
            logprobs = model(torch.tensor([encoded.ids])).logits[0].double().log_softmax(-1)
        learned = [place for place, mask in enumerate(encoded.mask) if mask]
        total -= sum(float(logprobs[place - 1, encoded.ids[place]]) for place in learned)
        count += len(learned)
    assert first_metrics(tmp_path)["loss"] == pytest.approx(total / count, abs=5e-5)


def test_dpo_starts_at_ln2(folder, tmp_path):
    from posttrain.train.dpo import train_dpo

    train_dpo(folder, PAIRS, tmp_path, DPOConfig(**STEP, lora=LoraConfig(rank=2), allow=("still_adapter",)), seed=0)
    assert first_metrics(tmp_path)["loss/preference"] == pytest.approx(math.log(2), abs=1e-5)


def test_reward_scores_are_those_of_transformers(folder, tokenizer, tmp_path):
    """As published pad and end of turn are one token, and the class reads its score at the last that is not pad."""
    from posttrain.train.reward_model import train_reward_model
    from reward.score import score_rows

    assert tokenizer.pad_token_id in stop_ids(tokenizer)
    config = RewardModelConfig(**{**STEP, "learning_rate": 1e-5, "max_steps": 2}, lora=LoraConfig(rank=2))
    train_reward_model(folder, PAIRS, tmp_path, config, seed=0)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32).eval()
    own = load_tokenizer(tmp_path)
    assert plain.config.pad_token_id == own.pad_token_id and own.pad_token_id not in stop_ids(own)
    rows = [{"prompt": pair["prompt"], "completion": pair[side]} for pair in PAIRS for side in ("chosen", "rejected")]
    ids_list = [encode_example(own, row["prompt"], row["completion"]).ids for row in rows]
    batch = own.pad({"input_ids": ids_list}, return_tensors="pt", padding_side="right")
    with torch.no_grad():
        theirs = plain(**batch).logits[:, 0].tolist()
    ours = [row["score"] for row in score_rows(rows, load_reward_model(tmp_path), own)]
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_a_greedy_sample_is_that_of_generate(folder, tokenizer):
    """In float32; and the start check lets the same weights through in bfloat16, with a limit that is their own."""
    from synth.engines.base import Request, SamplingParams
    from synth.engines.transformers import TransformersEngine

    params = SamplingParams(0.0, 1.0, 0, 24, tuple(stop_ids(tokenizer, folder)))
    requests = [
        Request(f"p{number}", tuple(encode_prompt(tokenizer, pair["prompt"])), (), seeds=(0,), sample_indices=(0,))
        for number, pair in enumerate(PAIRS)
    ]
    samples = {sample.key: sample.ids for sample in TransformersEngine(folder).generate(requests, params)}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for request in requests:
        ids = torch.tensor([request.prompt_ids])
        with torch.no_grad():
            output = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24,
                eos_token_id=list(params.stop_ids), pad_token_id=0,
            )  # fmt: skip
        assert samples[request.key] == tuple(output[0, ids.shape[1] :].tolist())
    rounded = TransformersEngine(folder, dtype="bfloat16")
    assert len(list(rounded.generate(requests[:1], params))) == 1
    assert rounded.probe.checked and rounded.probe.difference > 1e-3
