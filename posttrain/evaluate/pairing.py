"""Pair the rows of two models by prompt, and turn scores into verdicts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

from posttrain.core.errors import DataError, Faults

Row = dict[str, Any]


@dataclass(frozen=True)
class Pairing:
    """The samples of A and of B, prompt by prompt.

    Attributes:
        prompts: ``(prompt_id, rows of A, rows of B)`` in the order of the ids; rows in the order of ``sample_index``.
        missing_in_a: ids that only B has.
        missing_in_b: ids that only A has.
    """

    prompts: list[tuple[str, list[Row], list[Row]]]
    missing_in_a: list[str]
    missing_in_b: list[str]

    @property
    def alone(self) -> tuple[int, int]:
        """Count the prompts that only A has, and those that only B has, as ``win_rate.win_rate`` takes them."""
        return len(self.missing_in_b), len(self.missing_in_a)


def pair_rows(rows_a: Iterable[Row], rows_b: Iterable[Row], names: tuple[str, str] = ("A", "B")) -> Pairing:
    """Join the rows of A and B by ``prompt_id``.

    Args:
        names: what the rows of A and of B are, for messages; with their files for example.

    Raises:
        DataError: rows without an id, the same sample twice, one id with two different prompts, or no id in common.
    """
    side_a, side_b = _by_prompt(rows_a, names[0]), _by_prompt(rows_b, names[1])
    shared = sorted(side_a.keys() & side_b.keys())
    if not shared:
        raise DataError(
            f"{names[0]} has {len(side_a)} prompts and {names[1]} has {len(side_b)}, and no prompt_id is in both; "
            "sample both models from the same prompts file"
        )
    faults = Faults(" and ".join(names))
    for prompt_id in shared:
        prompt_a, prompt_b = side_a[prompt_id][0].get("prompt"), side_b[prompt_id][0].get("prompt")
        if prompt_a is not None and prompt_b is not None and _messages(prompt_a) != _messages(prompt_b):
            faults.add(f"prompt_id {prompt_id!r} is another prompt in A than in B; sample both from the same file")
    faults.raise_if_any(DataError)
    return Pairing(
        prompts=[(prompt_id, side_a[prompt_id], side_b[prompt_id]) for prompt_id in shared],
        missing_in_a=sorted(side_b.keys() - side_a.keys()),
        missing_in_b=sorted(side_a.keys() - side_b.keys()),
    )


def _by_prompt(rows: Iterable[Row], side: str) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    seen: set[tuple[str, object]] = set()
    faults = Faults(f"the rows of {side}")
    for number, row in enumerate(rows, start=1):
        prompt_id, index = row.get("prompt_id"), row.get("sample_index")
        if not isinstance(prompt_id, str):
            faults.add(f"row {number}: prompt_id is {prompt_id!r}; expected text")
            continue
        if index is not None and not isinstance(index, int):
            faults.add(f"row {number}: sample_index is {index!r}; expected a whole number")
            continue
        if index is not None and (prompt_id, index) in seen:
            faults.add(f"row {number}: sample {index} of prompt_id {prompt_id!r} is there twice")
        seen.add((prompt_id, index))
        groups.setdefault(prompt_id, []).append(row)
    faults.raise_if_any(DataError)
    return {key: sorted(group, key=lambda row: row.get("sample_index") or 0) for key, group in groups.items()}


def pair_scores(
    rows_a: Iterable[Row], rows_b: Iterable[Row], score_key: str = "score", tie_margin: float = 0.0
) -> list[Row]:
    """Give a verdict per prompt from the scores of A's and B's samples.

    Every sample of A meets every sample of B of the same prompt, and the prompt's preference is the average: the chance
    that a sample of A beats one of B, ties counting one half. Averages of scores are not compared, since a score's unit
    differs from prompt to prompt.

    Args:
        score_key: the column of the score; a row without it, or with None, is a sample that could not be judged.
        tie_margin: score differences up to this are ties (in the score's unit).

    Returns:
        Rows of ``prompt_id``, ``preference`` (None where a side has no judged sample), ``length_a``, ``length_b`` (of
        the judged samples), and ``left_out_a``, ``left_out_b``: samples that have no say, being without a score.

    Raises:
        DataError: as ``pair_rows``; a score that is not a finite number.
    """
    verdicts = []
    for prompt_id, samples_a, samples_b in pair_rows(rows_a, rows_b).prompts:
        judged_a = [row for row in samples_a if row.get(score_key) is not None]
        judged_b = [row for row in samples_b if row.get(score_key) is not None]
        scores_a, scores_b = _scores(judged_a, score_key, "A"), _scores(judged_b, score_key, "B")
        preferences = [_preference(a, b, tie_margin) for a, b in product(scores_a, scores_b)]
        verdicts.append(
            {
                "prompt_id": prompt_id,
                "preference": math.fsum(preferences) / len(preferences) if preferences else None,
                "length_a": mean_length(judged_a),
                "length_b": mean_length(judged_b),
                "left_out_a": len(samples_a) - len(judged_a),
                "left_out_b": len(samples_b) - len(judged_b),
            }
        )
    return verdicts


def _scores(samples: list[Row], score_key: str, side: str) -> list[float]:
    scores = [sample[score_key] for sample in samples]
    for score in scores:
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise DataError(
                f"{score_key} {score!r} of prompt_id {samples[0]['prompt_id']!r} in {side} is not a finite number; "
                "score the rows again, or leave the column out where a sample could not be judged"
            )
    return scores


def _preference(score_a: float, score_b: float, tie_margin: float) -> float:
    if abs(score_a - score_b) <= tie_margin:
        return 0.5
    return 1.0 if score_a > score_b else 0.0


def _messages(prompt: object) -> object:
    """Bring a prompt given as text, which means one user message, into the form of the other."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def completion_text(row: Row) -> str:
    """Give the text of a row's completion: its assistant message, or the text itself."""
    completion = row.get("completion")
    if isinstance(completion, str):
        return completion
    if isinstance(completion, list) and completion and all(isinstance(turn, dict) for turn in completion):
        contents = [turn.get("content") or "" for turn in completion]
        if all(isinstance(content, str) for content in contents):
            return "\n".join(contents)
    raise DataError(
        f"prompt_id {row.get('prompt_id')!r} has no completion ({completion!r}); expected "
        '[{"role": "assistant", "content": "…"}]'
    )


def check_completions(rows: Iterable[Row], name: str) -> None:
    """Check that every row has a completion.

    Args:
        name: what the rows are, for messages.

    Raises:
        DataError: lists all that have none, or no row is there.
    """
    faults, number = Faults(f"the rows of {name}"), 0
    for number, row in enumerate(rows, start=1):
        try:
            completion_text(row)
        except DataError as error:
            faults.add(f"row {number}: {error}")
    if not number:
        raise DataError(f"{name} has no rows; give completions, as `posttrain sample` writes them")
    faults.raise_if_any(DataError)


def mean_length(samples: list[Row]) -> float | None:
    """Give the mean number of characters of the completions, or None where the rows hold none or there is no row."""
    if not samples or any("completion" not in sample for sample in samples):
        return None
    return sum(len(completion_text(sample)) for sample in samples) / len(samples)


_OTHER_SIDE = {"A": "B", "B": "A"}


def mirrored(verdict: Row) -> Row:
    """Tell a verdict or a label on A against B as one on B against A.

    Columns `a` and `b`, and those that end in _a and _b, change places; so do flags such as `hollow_a`.
    """
    turned = {_other_name(key): value for key, value in verdict.items()}
    if verdict["preference"] is not None:
        turned["preference"] = 1.0 - verdict["preference"]
    if "verdict" in verdict:
        turned["verdict"] = _OTHER_SIDE.get(verdict["verdict"], verdict["verdict"])
    if "votes" in verdict:
        turned["votes"] = [_OTHER_SIDE.get(vote, vote) for vote in verdict["votes"]]
    if "flags" in verdict:
        turned["flags"] = sorted(_other_name(flag) for flag in verdict["flags"])
    return turned


def _other_name(name: str) -> str:
    stem, side = name[:-1], name[-1:]
    is_sided = name in ("a", "b") or name.endswith(("_a", "_b"))
    return f"{stem}{_OTHER_SIDE[side.upper()].lower()}" if is_sided else name
