"""The rows that a selection writes: what a trainer reads, and side columns that tell where it came from."""

from __future__ import annotations

from typing import Any

from posttrain.core.formats import normalize_prompt
from reward.ids import Row
from reward.pair_rules import Candidate

_SAMPLE_COLUMNS = ("score", "sample_index", "model", "finish_reason", "num_tokens", "seed")
"""Columns that belong to one completion: a pair carries them twice, as `chosen_…` and `rejected_…`."""


def sft_row(best: Candidate) -> Row:
    """Build a COMPLETION row: the scored row as it is, prompt and completion as messages."""
    return {**best.row, "prompt": normalize_prompt(best.row["prompt"]), "completion": _messages(best.row)}


def pair_row(chosen: Candidate, rejected: Candidate) -> Row:
    """Build a PREFERENCE row; columns of the prompt are carried as they are, columns of a sample twice."""
    row: Row = {
        "prompt": normalize_prompt(chosen.row["prompt"]),
        "chosen": _messages(chosen.row),
        "rejected": _messages(rejected.row),
        "margin": chosen.value - rejected.value,
    }
    for key, value in chosen.row.items():
        if key not in (*row, *_SAMPLE_COLUMNS, "completion"):
            row[key] = value
    if chosen.row.get("model") == rejected.row.get("model") and "model" in chosen.row:
        row["model"] = chosen.row["model"]
    for key in _SAMPLE_COLUMNS:
        for side, candidate in (("chosen", chosen), ("rejected", rejected)):
            if key in candidate.row:
                row[f"{side}_{key}"] = candidate.row[key]
    return row


def _messages(row: Row) -> list[dict[str, Any]]:
    completion = row["completion"]
    return [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
