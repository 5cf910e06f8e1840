"""What sampling gave: the best-of-K curve, and rows for the samples browser."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

Row = dict[str, Any]
SAMPLES_PER_ROUND = 60


def best_of_k_curve(scored: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """Return for k = 1, 2, 4, … K the mean over prompts of the expected best score among k of K samples.

    With scores s_1 ≤ … ≤ s_K of a prompt, the largest of k drawn without repeats is s_i with probability
    C(i-1, k-1) / C(K, k), so the curve is exact. Prompts with fewer than K samples are left out.
    """
    groups: dict[str, list[float]] = {}
    for row in scored:
        if row.get("score") is not None and math.isfinite(row["score"]):
            groups.setdefault(row["prompt_id"], []).append(row["score"])
    largest = max((len(scores) for scores in groups.values()), default=0)
    full = [sorted(scores) for scores in groups.values() if len(scores) == largest]
    ks = [2**power for power in range(largest.bit_length()) if 2**power <= largest]
    return {k: sum(_expected_best(scores, k) for scores in full) / len(full) for k in ks}


def _expected_best(scores: list[float], k: int) -> float:
    total = math.comb(len(scores), k)
    return sum(score * math.comb(place, k - 1) for place, score in enumerate(scores)) / total


def sample_rows(number: int, scored: Iterable[Mapping[str, Any]], pairs: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Return the first prompts of a round with all their samples, best first, for the samples browser."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in scored:
        groups.setdefault(row["prompt_id"], []).append(row)
    paired = {pair["prompt_id"]: pair for pair in pairs}
    return [_browsed(number, key, groups[key], paired.get(key)) for key in list(groups)[:SAMPLES_PER_ROUND]]


def _score_of(row: Mapping[str, Any]) -> float:
    score = row.get("score")
    return -math.inf if score is None else score


def _browsed(number: int, key: str, group: list[Mapping[str, Any]], pair: Mapping[str, Any] | None) -> Row:
    ordered = sorted(group, key=lambda row: (-_score_of(row), row.get("sample_index") or 0))
    texts = [row["completion"][0]["content"] for row in ordered]
    return {
        "round": number,
        "prompt_id": key,
        "family": ordered[0].get("family") or ordered[0].get("source") or "",
        "verdict": "pair" if pair else "no pair",
        "prompt": ordered[0]["prompt"],
        "completions": [
            {"text": text, "score": row.get("score"), "model": row.get("model")}
            for text, row in zip(texts, ordered, strict=True)
        ],
        "chosen": texts.index(pair["chosen"][0]["content"]) if pair else None,
        "rejected": texts.index(pair["rejected"][0]["content"]) if pair else None,
    }
