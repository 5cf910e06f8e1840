"""Rows for the samples browser: a round's samples with what was chosen, and held-out answers side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
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
    completions = _merged([_answer(row, gold.get(key_of(row))) for row in ordered])
    texts = [completion["text"] for completion in completions]
    chosen = texts.index(pair["chosen"][0]["content"]) if pair else None
    return {
        "kind": "training samples",
        "round": number,
        "prompt_id": key,
        "family": ordered[0].get("family") or ordered[0].get("source") or "",
        "verdict": _choice(completions, chosen),
        "prompt": ordered[0]["prompt"],
        "completions": completions,
        "chosen": chosen,
        "rejected": texts.index(pair["rejected"][0]["content"]) if pair else None,
    }


def _answer(row: Row, gold: float | None) -> dict[str, Any]:
    text = row["completion"][0]["content"]
    return {"text": text, "score": row.get("score"), "model": row.get("model"), "gold": gold}


def _merged(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Show equal answers of one model once, with how many there were."""
    kept: dict[tuple[Any, ...], dict[str, Any]] = {}
    for answer in answers:
        same = kept.setdefault(tuple(answer.values()), answer | {"count": 0})
        same["count"] += 1
    return list(kept.values())


def _choice(completions: list[dict[str, Any]], chosen: int | None) -> str:
    """Say whether there is a pair, and by the gold scores whether its chosen side is the best there was."""
    if chosen is None:
        return "no pair"
    gold = [completion["gold"] for completion in completions]
    if None in gold:
        return "pair"
    return "pair, best chosen" if gold[chosen] == max(gold) else "pair, better passed over"


def _score_of(row: Row) -> float:
    score = row.get("score")
    return -math.inf if score is None else score


def held_out_rows(
    number: int, names: tuple[str, str], a: Iterable[Row], b: Iterable[Row], verdicts: Iterable[Row]
) -> list[dict[str, Any]]:
    """Return held-out prompts with both models' answers and the judge's word on A's against B's.

    A prompt's verdicts are averaged, as for the win rate: above one half is a win of A.
    """
    answers = _first_groups(a, HELD_OUT_PER_ROUND)
    others: dict[str, list[Row]] = {}
    for row in b:
        if row["prompt_id"] in answers:
            others.setdefault(row["prompt_id"], []).append(row)
    judged: dict[str, list[float | None]] = {}
    for row in verdicts:
        judged.setdefault(row["prompt_id"], []).append(row["preference"])
    return [
        _held_out(number, names, (answers[key], others[key]), judged.get(key, [])) for key in answers if key in others
    ]


def _held_out(
    number: int, names: tuple[str, str], sides: tuple[list[Row], list[Row]], judged: list[float | None]
) -> dict[str, Any]:
    first = sides[0][0]
    return {
        "kind": "held-out answers",
        "round": number,
        "prompt_id": first["prompt_id"],
        "family": first.get("family") or first.get("source") or "",
        "verdict": _verdict(judged),
        "prompt": first["prompt"],
        "completions": _merged(
            [
                _answer(row, None) | {"model": name, "side": side}
                for name, side, rows in zip(names, "ab", sides, strict=True)
                for row in rows
            ]
        ),
    }


def _verdict(preferences: list[float | None]) -> str:
    readable = [preference for preference in preferences if preference is not None]
    if not readable:
        return "unreadable"
    mean = sum(readable) / len(readable)
    return "win" if mean > 0.5 else "loss" if mean < 0.5 else "tie"
