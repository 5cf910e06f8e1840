"""Preference labels from scores: edited > chosen > rejected, in four strengths (2407.21783 §4.1.2 and §4.2.1)."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.core.errors import DataError, Faults
from posttrain.core.formats import normalize_prompt
from reward.errors import RewardError
from reward.ids import Row, answer_text, completion_text, group_by_prompt, normalized_text, with_ids

STRENGTHS = ("significantly_better", "better", "slightly_better", "marginally_better")
"""From the clearest to the weakest, the names of Llama 3."""


@dataclass
class Labels:
    """What an annotator says about a set of completions.

    Attributes:
        rankings: RANKING rows, `completions` best first, with `scores` (None for an edited answer) and `strengths`,
            one per pair of `itertools.combinations` of the completions.
        preferences: PREFERENCE rows with `strength`: every pair of every ranking.
        dropped: rows that no label came from, with `drop_reason`.
        summary: counts by strength and by reason.
    """

    rankings: list[Row] = field(default_factory=list)
    preferences: list[Row] = field(default_factory=list)
    dropped: list[Row] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)


def label(
    scored: Iterable[Mapping[str, Any]],
    strengths: Sequence[float],
    min_strength: str = "better",
    edited: Mapping[str, str] | None = None,
    edited_strength: str = "significantly_better",
    num_pairs: int = 1,
    truncated_rejected: bool = True,
    seed: int = 0,
) -> Labels:
    """Label completions as an annotator would who sees two answers to a prompt at a time.

    The pairs of a prompt are drawn at random from its answers, each answer in one pair where there are enough,
    answers of two different models first. A pair whose gap is under `strengths[3]` is a near-tie and is left out; so
    is one weaker than `min_strength`. Where the prompt has an edited answer, it goes in front of the first pair.

    Args:
        scored: COMPLETION rows with `score`, K for each prompt.
        strengths: score gaps from which a preference is significantly, clearly, slightly, marginally better.
        min_strength: weakest strength kept; Llama 3 keeps the two clearest.
        edited: by `prompt_id`, an answer that somebody made better than all of the samples.
        edited_strength: strength of an edited answer over a sample; an edit has no score to take a gap from.
        num_pairs: most pairs per prompt.
        truncated_rejected: whether an answer cut at the token limit may be the rejected one; it is never the chosen.
        seed: of the draw; each prompt draws by its own id.

    Raises:
        RewardError: gaps that do not fall from significantly to marginally, or an unknown strength.
        DataError: one `prompt_id` stands for two prompts.
    """
    _check_strengths(strengths, min_strength, edited_strength)
    rows, unreadable = with_ids(scored)
    labels = Labels(dropped=[{key: row[key] for key in row if key != "position"} for row in unreadable])
    reasons: Counter[str] = Counter()
    groups = group_by_prompt(rows)
    for prompt_id, group in groups.items():
        usable, unusable = _usable(group, truncated_rejected)
        labels.dropped.extend(unusable)
        edit = (edited or {}).get(prompt_id)
        rankings: list[Row] = []
        used: set[int] = set()
        for better, worse in _draw_pairs(usable, num_pairs, random.Random(f"{seed}:{prompt_id}")):
            strength = strength_of(better["score"] - worse["score"], strengths)
            reason = _why_left_out(better, worse, strength, min_strength)
            if reason:
                reasons[reason] += 1
                continue
            used |= {id(better), id(worse)}
            rankings.append(_ranking(better, worse, str(strength), None if rankings else edit, edited_strength))
        if edit is not None and not rankings and usable:
            # Every sample may be equally poor; the edit is still better than each of them.
            rankings.extend(_edit_over_best(usable, edit, edited_strength, used))
        labels.rankings.extend(rankings)
        labels.dropped.extend({**row, "drop_reason": "not_in_a_pair"} for row in usable if id(row) not in used)
    labels.preferences = rankings_to_pairs(labels.rankings)
    labels.summary = _summary(labels, len(groups), len(rows) + len(unreadable), reasons)
    return labels


def strength_of(gap: float, strengths: Sequence[float]) -> str | None:
    """Name the strength of a score gap; None for a near-tie."""
    for name, least in zip(STRENGTHS, strengths, strict=True):
        if gap > 0 and gap >= least:
            return name
    return None


def check_strength_names(rows: Iterable[Mapping[str, Any]], where: str) -> None:
    """Refuse rows with a strength (or, in rankings, `strengths`) of another name; a row may have none.

    Raises:
        DataError: lists the rows; a misspelt strength would else pass for a weak one.
    """
    faults = Faults(where)
    for number, row in enumerate(rows, start=1):
        for name in [row.get("strength"), *(row.get("strengths") or [])]:
            if name is not None and name not in STRENGTHS:
                faults.add(f"row {number}: unknown strength {name!r}; expected one of {', '.join(STRENGTHS)}")
    faults.raise_if_any(DataError)


def rankings_to_pairs(rankings: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Turn RANKING rows into PREFERENCE rows, one for each pair of answers, keeping `strength` where it is known.

    Columns of the prompt are carried; the pair's place in the ranking is `chosen_rank` and `rejected_rank`, from 0.
    Where the ranking says which samples its answers are, the pair does: `…_sample_index` and `…_model`.
    """
    pairs: list[Row] = []
    for ranking in rankings:
        carried = {key: value for key, value in ranking.items() if key not in _RANKING_COLUMNS}
        places = list(itertools.combinations(range(len(ranking["completions"])), 2))
        strengths = ranking.get("strengths") or [None] * len(places)
        nothing = [None] * len(ranking["completions"])
        scores = ranking.get("scores") or nothing
        indices, models = ranking.get("sample_indices") or nothing, ranking.get("models") or nothing
        for (better, worse), strength in zip(places, strengths, strict=True):
            pair = {
                "prompt": ranking["prompt"],
                "chosen": ranking["completions"][better],
                "rejected": ranking["completions"][worse],
                "chosen_rank": better,
                "rejected_rank": worse,
                "chosen_score": scores[better],
                "rejected_score": scores[worse],
                "chosen_edited": bool(ranking.get("edited")) and better == 0,
                "chosen_sample_index": indices[better],
                "rejected_sample_index": indices[worse],
                "chosen_model": models[better],
                "rejected_model": models[worse],
            }
            pairs.append({**carried, **pair, **({"strength": strength} if strength else {})})
    return pairs


_RANKING_COLUMNS = ("prompt", "completions", "strengths", "scores", "edited", "sample_indices", "models")
_SAMPLE_COLUMNS = ("completion", "score", "sample_index", "model", "finish_reason", "num_tokens", "seed", "drop_reason")


def _check_strengths(strengths: Sequence[float], *names: str) -> None:
    if len(strengths) != 4 or any(a < b for a, b in itertools.pairwise(strengths)) or not strengths[-1] >= 0:
        raise RewardError(
            f"strengths are {list(strengths)}; give four gaps that fall from significantly to marginally better, "
            "none negative, such as [0.6, 0.4, 0.2, 0.05]."
        )
    for name in names:
        if name not in STRENGTHS:
            raise RewardError(f"unknown strength {name!r}; choose one of {', '.join(STRENGTHS)}.")


def _usable(group: Sequence[Row], truncated_rejected: bool) -> tuple[list[Row], list[Row]]:
    usable: list[Row] = []
    unusable: list[Row] = []
    for row in group:
        score = row.get("score")
        if not isinstance(score, int | float) or not math.isfinite(score):
            unusable.append({**row, "drop_reason": row.get("error") or row.get("drop_reason") or f"bad_score: {score}"})
        elif not answer_text(row["completion"]).strip():
            unusable.append({**row, "drop_reason": "empty"})
        elif row.get("finish_reason") == "length" and not truncated_rejected:
            unusable.append({**row, "drop_reason": "truncated"})
        else:
            usable.append(row)
    return usable, unusable


def _draw_pairs(rows: Sequence[Row], num_pairs: int, chance: random.Random) -> Iterator[tuple[Row, Row]]:
    """Draw pairs (better, worse): fresh answers before used ones, answers of two models before those of one."""
    rows = sorted(rows, key=lambda row: (row["sample_index"], str(row.get("model"))))
    pairs = list(itertools.combinations(range(len(rows)), 2))
    chance.shuffle(pairs)
    uses: Counter[int] = Counter()
    for _ in range(min(num_pairs, len(pairs))):
        one_model = {pair: rows[pair[0]].get("model") == rows[pair[1]].get("model") for pair in pairs}
        first, second = min(pairs, key=lambda pair: (uses[pair[0]] + uses[pair[1]], one_model[pair]))
        pairs.remove((first, second))
        uses.update((first, second))
        a, b = rows[first], rows[second]
        yield (a, b) if a["score"] >= b["score"] else (b, a)


def _why_left_out(better: Row, worse: Row, strength: str | None, min_strength: str) -> str | None:
    if normalized_text(completion_text(better["completion"])) == normalized_text(completion_text(worse["completion"])):
        return "same_text"
    if strength is None:
        return "near_tie"
    if STRENGTHS.index(strength) > STRENGTHS.index(min_strength):
        return f"weaker_than_{min_strength}"
    if better.get("finish_reason") == "length":
        return "truncated_would_be_chosen"
    return None


def _ranking(better: Row, worse: Row, strength: str, edit: str | None, edited_strength: str) -> Row:
    rows = [better, worse]
    with_edit = edit is not None and not _is_text_of(edit, rows)
    return _ranking_row(rows, [strength], edit if with_edit else None, edited_strength)


def _edit_over_best(usable: Sequence[Row], edit: str, edited_strength: str, used: set[int]) -> Iterator[Row]:
    best = min(usable, key=lambda row: (-row["score"], row["sample_index"], str(row.get("model"))))
    if not _is_text_of(edit, [best]):
        used.add(id(best))
        yield _ranking_row([best], [], edit, edited_strength)


def _ranking_row(rows: Sequence[Row], strengths: list[str], edit: str | None, edited_strength: str) -> Row:
    edits = [] if edit is None else [[{"role": "assistant", "content": edit}]]
    first = rows[0]
    carried = {key: value for key, value in first.items() if key not in (*_SAMPLE_COLUMNS, "prompt")}
    return {
        **carried,
        "prompt": normalize_prompt(first["prompt"]),
        "completions": edits + [[{"role": "assistant", "content": completion_text(row["completion"])}] for row in rows],
        "scores": [None for _ in edits] + [row["score"] for row in rows],
        "strengths": [edited_strength for _ in rows if edits] + strengths,
        "edited": bool(edits),
        "sample_indices": [None for _ in edits] + [row["sample_index"] for row in rows],
        "models": [None for _ in edits] + [row.get("model") for row in rows],
    }


def _is_text_of(edit: str, rows: Sequence[Row]) -> bool:
    texts = {normalized_text(completion_text(row["completion"])) for row in rows}
    return normalized_text(edit) in texts


def _summary(labels: Labels, num_prompts: int, num_completions: int, reasons: Mapping[str, int]) -> dict[str, Any]:
    return {
        "prompts": num_prompts,
        "completions": num_completions,
        "rankings": len(labels.rankings),
        "preferences": len(labels.preferences),
        "edited": sum(ranking["edited"] for ranking in labels.rankings),
        "by_strength": dict(Counter(pair["strength"] for pair in labels.preferences)),
        "pairs_left_out": dict(reasons),
        "drop_reasons": dict(Counter(row["drop_reason"].split(":")[0] for row in labels.dropped)),
    }
