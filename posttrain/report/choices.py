"""What choosing among K samples gave: by the reward model's score, and by the gold score where there is one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
Key = tuple[str, int | None, str | None]
Scored = tuple[float, float]  # what a sample is picked by, and what it is then worth


def best_of_k_curve(scored: Iterable[Row]) -> dict[int, float]:
    """Return for k = 1, 2, 4, … K the mean over prompts of the expected best score among k of K samples.

    Prompts with fewer than K samples are left out.
    """
    return curve([[(score, score) for score in scores] for scores in _by_prompt(scored, _score).values()])


def gold_curves(scored: Iterable[Row], gold: Mapping[Key, float]) -> dict[str, Any] | None:
    """Return what picking by the reward model, and by the gold score itself, is worth in gold score for k = 1, 2, 4, …

    Returns:
        ``picked`` {k: mean gold score of the reward model's pick}, ``oracle`` {k: of the best there is}, and the
        number of prompts with K samples that all have both scores; None where there is no such prompt.
    """

    def both(row: Row) -> Scored | None:
        score, worth = _score(row), gold.get(key_of(row))
        return None if score is None or worth is None else (score, worth)

    groups = full_groups(list(_by_prompt(scored, both).values()))
    if not groups:
        return None
    oracle = [[(worth, worth) for _, worth in group] for group in groups]
    return {"picked": curve(groups), "oracle": curve(oracle), "num_prompts": len(groups)}


def key_of(row: Row) -> Key:
    """Name a sample: two models may have answered a prompt with the same index."""
    return row["prompt_id"], row.get("sample_index"), row.get("model")


def full_groups(groups: Sequence[list[Scored]]) -> list[list[Scored]]:
    """Keep the prompts with as many samples as the largest has."""
    largest = max(map(len, groups), default=0)
    return [group for group in groups if len(group) == largest > 0]


def curve(groups: Sequence[list[Scored]]) -> dict[int, float]:
    """Return for k = 1, 2, 4, … K the expected worth of the pick among k samples, as a mean over prompts."""
    full = full_groups(groups)
    largest = len(full[0]) if full else 0
    ks = [2**power for power in range(largest.bit_length()) if 2**power <= largest]
    return {k: sum(expected_worth(group, k) for group in full) / len(full) for k in ks}


def expected_worth(samples: list[Scored], k: int) -> float:
    """Return what the sample of the largest score among k of K, drawn without repeats, is worth on average.

    With scores s_1 < … < s_K the largest of k is s_i with probability C(i-1, k-1) / C(K, k), so the number is exact,
    and not one draw. Equal scores share their probability: which of them is picked says nothing.
    """
    ordered = sorted(samples)
    total, begin = 0.0, 0
    while begin < len(ordered):
        end = begin
        while end < len(ordered) and ordered[end][0] == ordered[begin][0]:
            end += 1
        worth = sum(sample[1] for sample in ordered[begin:end]) / (end - begin)
        total += worth * (math.comb(end, k) - math.comb(begin, k))
        begin = end
    return total / math.comb(len(ordered), k)


def _score(row: Row) -> float | None:
    score = row.get("score")
    return score if score is not None and math.isfinite(score) else None


def _by_prompt(rows: Iterable[Row], value: Callable[[Row], Any]) -> dict[str, list[Any]]:
    """Group what `value` gives of each row by prompt; rows of which it gives None are left out."""
    groups: dict[str, list[Any]] = {}
    for row in rows:
        if (found := value(row)) is not None:
            groups.setdefault(row["prompt_id"], []).append(found)
    return groups
