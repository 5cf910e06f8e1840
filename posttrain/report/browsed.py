"""Rows for the samples browser: a round's samples with what was chosen, and held-out answers side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from posttrain.report.choices import Key, key_of

Row = Mapping[str, Any]
SAMPLES_PER_ROUND = 60
HELD_OUT_PER_ROUND = 30


def sample_rows(
    number: int, scored: Iterable[Row], pairs: Iterable[Row], gold: Mapping[Key, float] | None = None
) -> list[dict[str, Any]]:
    """Return the first prompts of a round with all their samples, best first."""
    groups = _first_groups(scored, SAMPLES_PER_ROUND)
    paired = {pair["prompt_id"]: pair for pair in pairs if pair["prompt_id"] in groups}
    return [_browsed(number, key, group, paired.get(key), gold or {}) for key, group in groups.items()]


def _first_groups(rows: Iterable[Row], limit: int) -> dict[str, list[Row]]:
    """Group the rows of the first prompts; the file is read once and not held in memory."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["prompt_id"] in groups or len(groups) < limit:
            groups.setdefault(row["prompt_id"], []).append(row)
    return groups


def _browsed(number: int, key: str, group: list[Row], pair: Row | None, gold: Mapping[Key, float]) -> dict[str, Any]:
    ordered = sorted(group, key=lambda row: (-_score_of(row), row.get("sample_index") or 0))
    texts = [row["completion"][0]["content"] for row in ordered]
    return {
        "kind": "training samples",
        "round": number,
        "prompt_id": key,
        "family": ordered[0].get("family") or ordered[0].get("source") or "",
        "verdict": "pair" if pair else "no pair",
        "prompt": ordered[0]["prompt"],
        "completions": [
            {"text": text, "score": row.get("score"), "model": row.get("model"), "gold": gold.get(key_of(row))}
            for text, row in zip(texts, ordered, strict=True)
        ],
        "chosen": texts.index(pair["chosen"][0]["content"]) if pair else None,
        "rejected": texts.index(pair["rejected"][0]["content"]) if pair else None,
    }


def _score_of(row: Row) -> float:
    score = row.get("score")
    return -math.inf if score is None else score


def held_out_rows(
    number: int, names: tuple[str, str], a: Iterable[Row], b: Iterable[Row], verdicts: Iterable[Row]
) -> list[dict[str, Any]]:
    """Return held-out prompts with both models' first answers and the judge's word on A's against B's.

    A prompt's verdicts are averaged, as for the win rate: above one half is a win of A.
    """
    answers = [{key: group[0] for key, group in _first_groups(rows, HELD_OUT_PER_ROUND).items()} for rows in (a, b)]
    judged: dict[str, list[float | None]] = {}
    for row in verdicts:
        judged.setdefault(row["prompt_id"], []).append(row["preference"])
    return list(_held_out(number, names, answers, judged))


def _held_out(
    number: int, names: tuple[str, str], answers: list[dict[str, Row]], judged: Mapping[str, list[float | None]]
) -> Iterator[dict[str, Any]]:
    for key, first in answers[0].items():
        if key not in answers[1]:
            continue
        yield {
            "kind": "held-out answers",
            "round": number,
            "prompt_id": key,
            "family": first.get("family") or first.get("source") or "",
            "verdict": _verdict(judged.get(key, [])),
            "prompt": first["prompt"],
            "completions": [
                {"text": row["completion"][0]["content"], "score": row.get("score"), "model": name}
                for name, row in zip(names, (first, answers[1][key]), strict=True)
            ],
        }


def _verdict(preferences: list[float | None]) -> str:
    readable = [preference for preference in preferences if preference is not None]
    if not readable:
        return "unreadable"
    mean = sum(readable) / len(readable)
    return "win" if mean > 0.5 else "loss" if mean < 0.5 else "tie"
