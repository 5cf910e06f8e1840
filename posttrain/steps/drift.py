"""Drift of a round's policy from the base, on the answers that its win rates stand on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from posttrain.config import DriftConfig
from posttrain.core.batching import pad_right, token_budget_batches, token_logprobs
from posttrain.core.chat import encode_example, load_tokenizer
from posttrain.core.files import atomic_write, read_rows
from posttrain.core.formats import normalize_prompt
from posttrain.core.models import load_causal_lm
from posttrain.engines import device_of, use_threads
from posttrain.evaluate.drift import drift_measures
from posttrain.evaluate.pairing import completion_text
from posttrain.stages import StageCall

Row = dict[str, Any]
Tokens = tuple[list[int], list[int]]
"""A row's ids, and 1 for each that the policy has sampled."""


def drift(call: StageCall, limits: DriftConfig, round: int) -> dict[str, Any]:
    """Measure a policy's drift and write each measure with its threshold."""
    use_threads(call.execution)
    policy, base = (read_rows(call.inputs[side] / "completions.jsonl") for side in ("policy_answers", "base_answers"))
    kl = None if limits.max_kl_from_base is None else _kl_per_token(call, policy)
    rows = [{"round": round, **row} for row in drift_measures(policy, base, kl, limits)]
    atomic_write(call.out / "drift.json", json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    return {"drift": rows, "alarms": [row["measure"] for row in rows if row["alarm"]]}


def _kl_per_token(call: StageCall, rows: Sequence[Row]) -> float | None:
    """Estimate KL(policy ‖ base) per token from the policy's own samples: the mean log-ratio of what it said.

    The first answer to each prompt is read, for the time it takes; empty ones, which templates refuse, are left out.
    Unbiased where the answers were drawn at temperature 1 from the whole vocabulary; otherwise the samples are likelier
    than the policy's own, and the number is one to compare between rounds. None where nothing was said.
    """
    tokenizer = load_tokenizer(call.inputs["policy"])
    tokens = [_sampled(tokenizer, row, call.template_date) for row in _first_answers(rows)]
    num_sampled = sum(sum(mask) for _, mask in tokens)
    if not num_sampled:
        return None
    of_policy, of_base = (_summed_logprobs(call, call.inputs[name], tokens) for name in ("policy", "base"))
    return (of_policy - of_base) / num_sampled


def _first_answers(rows: Iterable[Row]) -> list[Row]:
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row["prompt_id"], row)
    return [row for row in first.values() if completion_text(row).strip()]


def _sampled(tokenizer: Any, row: Row, date: str | None) -> Tokens:
    """Return a row's ids and which the policy said; the end of turn of an answer that was cut is not its own."""
    prompt = normalize_prompt(row["prompt"])
    encoded = encode_example(tokenizer, prompt, row["completion"], date, tools=row.get("tools"))
    if row.get("finish_reason") != "length":
        return encoded.ids, encoded.mask
    return encoded.ids, [int(m and not f) for m, f in zip(encoded.mask, encoded.format_mask, strict=True)]


@torch.inference_mode()
def _summed_logprobs(call: StageCall, folder: Path, tokens: Sequence[Tokens]) -> float:
    """Sum a model's log-probs of all sampled tokens, in nats."""
    device = device_of(call.execution)
    model = load_causal_lm(folder, device=device)
    total = 0.0
    for batch in token_budget_batches([len(ids) for ids, _ in tokens], call.execution.max_batch_tokens):
        ids_BT, mask_BT = pad_right([tokens[number][0] for number in batch], pad_id=0)
        said_BT, _ = pad_right([tokens[number][1] for number in batch], pad_id=0)
        logprobs_BT = token_logprobs(model, ids_BT.to(device), mask_BT.to(device))
        total += float((logprobs_BT.double() * said_BT.to(device)).sum())
    return total
