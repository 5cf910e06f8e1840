"""Win rates: from verdicts on pairs to one number with its interval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from posttrain.core.errors import DataError, Faults
from posttrain.evaluate.intervals import mean_interval
from posttrain.evaluate.length_control import length_controlled
from posttrain.evaluate.pairing import pair_scores as pair_scores  # callers find it beside win_rate

Row = dict[str, Any]


def win_rate(verdicts: Iterable[Row], alone: tuple[int, int] = (0, 0)) -> dict[str, Any]:
    """Turn verdicts on A against B into A's win rate with its 95 % interval.

    Verdicts of one prompt are averaged first, so a prompt counts once however often it was sampled or judged;
    ``wins``, ``ties`` and ``losses`` count prompts whose average is above, at and below one half. A tie counts one half
    in the rate. Unreadable verdicts (``preference`` None) are counted apart and never enter it. Prompts are taken in
    the order of their ids, so the order of the rows changes nothing; swapping A and B gives 1 - w and the mirrored
    interval.

    Args:
        verdicts: rows of ``prompt_id``, ``preference`` (1 where A is better, 0 where B is, None where unreadable) and,
            where known, ``length_a`` and ``length_b`` (characters); ``left_out_a`` and ``left_out_b`` count samples of
            the prompt on which the verdict does not rest.
        alone: prompts that only A answered, and that only B did: they are in no verdict.

    Returns:
        ``win_rate``, ``low``, ``high``, ``num_pairs`` (prompts with a readable verdict), ``wins``, ``ties``,
        ``losses``, ``unreadable`` (verdicts), ``left_out`` (counts of what the rate does not rest on: ``samples_a``,
        ``samples_b``, ``prompts_only_a``, ``prompts_only_b``), ``length_controlled`` (its three numbers are None where
        lengths are not known), ``mean_length_a``, ``mean_length_b``. Where the verdicts are of a judge that was asked
        in both orders, ``flip_rate`` too: the share of readable verdicts whose two orders disagreed, and ``flags``, how
        often each of the verdicts' flags was raised.

    Raises:
        DataError: a preference outside [0, 1], or no readable verdict.
    """
    rows = list(verdicts)
    check_verdicts(rows)
    prompts = average_by_prompt(rows)
    if not prompts:
        raise DataError(f"no win rate: none of the {len(rows)} verdicts is readable; {_first_words(rows)}")
    preferences = np.array([prompt["preference"] for prompt in prompts])
    low, high = mean_interval(preferences)
    lengths = _lengths(prompts)
    return {
        "win_rate": 0.5 + float(np.mean(preferences - 0.5)),
        "low": low,
        "high": high,
        "num_pairs": len(prompts),
        "wins": int(np.sum(preferences > 0.5)),
        "ties": int(np.sum(preferences == 0.5)),
        "losses": int(np.sum(preferences < 0.5)),
        "unreadable": sum(row["preference"] is None for row in rows),
        "left_out": left_out(rows, alone),
        "length_controlled": _length_controlled(preferences, lengths),
        "mean_length_a": None if lengths is None else float(lengths[:, 0].mean()),
        "mean_length_b": None if lengths is None else float(lengths[:, 1].mean()),
        **_both_orders(rows),
    }


def left_out(rows: Iterable[Row], alone: tuple[int, int]) -> dict[str, int]:
    """Count the samples and prompts that no verdict rests on, side by side."""
    counts = {f"samples_{side}": sum(row.get(f"left_out_{side}") or 0 for row in rows) for side in "ab"}
    return {**counts, "prompts_only_a": alone[0], "prompts_only_b": alone[1]}


def told_left_out(result: Mapping[str, Any]) -> str:
    """Say what a win rate does not rest on; empty where that is nothing, or not known of an older one."""
    counts = result.get("left_out") or {}
    words = {
        "samples_a": "samples of A without a score or a partner",
        "samples_b": "samples of B without a score or a partner",
        "prompts_only_a": "prompts that only A has",
        "prompts_only_b": "prompts that only B has",
    }
    return "; ".join(f"{counts[name]} {what}" for name, what in words.items() if counts.get(name))


def _first_words(rows: list[Row], limit: int = 200) -> str:
    """Say what a judge replied first, or where to look."""
    reply = next((str(reply) for row in rows for reply in (*row.get("replies", ()), *row.get("replies_a", ()))), "")
    if not reply:
        return "look at what the judge replied, and at the errors of the scores"
    return f"the first reply ends: {reply[-limit:]!r}"


def _both_orders(rows: list[Row]) -> dict[str, Any]:
    """Give what only a judge that read every pair in both orders can tell."""
    flips = [row["flipped"] for row in rows if row["preference"] is not None and "flipped" in row]
    flags = Counter(flag for row in rows for flag in row.get("flags") or ())
    return {"flip_rate": sum(flips) / len(flips), "flags": dict(sorted(flags.items()))} if flips else {}


def check_verdicts(rows: list[Row]) -> None:
    """Refuse verdicts without an id, or with a preference that is neither a number in [0, 1] nor None."""
    faults = Faults("verdicts")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get("prompt_id"), str):
            faults.add(f"row {number}: prompt_id is {row.get('prompt_id')!r}; expected text")
        if "preference" not in row:
            faults.add(f"row {number}: no preference; expected a number in [0, 1], or null for an unreadable verdict")
        elif row["preference"] is not None and not is_preference(row["preference"]):
            faults.add(f"row {number}: preference is {row['preference']!r}; expected a number in [0, 1], 1: A better")
    faults.raise_if_any(DataError)


def is_preference(value: object) -> bool:
    """Tell whether a value is a number in [0, 1] (True and False are not numbers here)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value <= 1.0


def average_by_prompt(rows: list[Row]) -> list[Row]:
    """Average the readable verdicts of each prompt: one row per prompt, in the order of the ids."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["preference"] is not None:
            groups.setdefault(row["prompt_id"], []).append(row)
    return [
        {
            "prompt_id": prompt_id,
            # around one half, so that a mirrored verdict gives the mirrored average to the last bit
            "preference": 0.5 + math.fsum(row["preference"] - 0.5 for row in group) / len(group),
            "length_a": _mean([row.get("length_a") for row in group]),
            "length_b": _mean([row.get("length_b") for row in group]),
        }
        for prompt_id, group in sorted(groups.items())
    ]


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def _lengths(prompts: list[Row]) -> np.ndarray | None:
    """Give the lengths of A and B, prompts × 2, or None where any is unknown."""
    pairs = [(prompt["length_a"], prompt["length_b"]) for prompt in prompts]
    if any(length is None for pair in pairs for length in pair):
        return None
    return np.array(pairs, dtype=float)


def _length_controlled(preferences: np.ndarray, lengths: np.ndarray | None) -> dict[str, float | None]:
    if lengths is None:
        return {"win_rate": None, "low": None, "high": None}
    rate, low, high = length_controlled(preferences, lengths[:, 0] - lengths[:, 1])
    return {"win_rate": rate, "low": low, "high": high}
