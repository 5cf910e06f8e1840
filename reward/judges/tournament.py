"""Scores from a pairwise judge: the share of its own prompt's other answers that an answer beats."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from reward.ids import Row, group_by_prompt, with_ids
from reward.judges.pairwise import PairwiseJudge


def round_robin_scores(rows: Iterable[Mapping[str, Any]], judge: PairwiseJudge) -> tuple[list[Row], list[Row]]:
    """Let every two answers to a prompt meet once, and score each by its mean result.

    Takes K (K - 1) replies per prompt, both orders counted.

    Returns:
        The rows with `score` in [0, 1] (a tie counts one half; an unreadable verdict is no meeting), or `score` None
        and `drop_reason` where no meeting could be read; and the verdicts, for the record.

    Raises:
        DataError: one `prompt_id` stands for two prompts.
    """
    kept, dropped = with_ids(rows)
    groups = group_by_prompt(kept)
    meetings = [(one, other) for group in groups.values() for one, other in itertools.combinations(group, 2)]
    verdicts = judge.compare(
        [
            {
                "prompt_id": one["prompt_id"],
                "prompt": one["prompt"],
                "completion_a": one["completion"],
                "completion_b": other["completion"],
                "sample_index_a": one["sample_index"],
                "sample_index_b": other["sample_index"],
                "model_a": one.get("model"),
                "model_b": other.get("model"),
            }
            for one, other in meetings
        ]
    )
    results: dict[int, list[float]] = defaultdict(list)
    for (one, other), verdict in zip(meetings, verdicts, strict=True):
        if verdict["preference"] is not None:
            results[id(one)].append(verdict["preference"])
            results[id(other)].append(1.0 - verdict["preference"])
    scored = [_scored(row, results[id(row)]) for row in kept]
    return scored + [{**row, "score": None} for row in dropped], verdicts


def _scored(row: Row, results: list[float]) -> Row:
    if not results:
        return {**row, "score": None, "drop_reason": "no_readable_verdict"}
    return {**row, "score": sum(results) / len(results)}
