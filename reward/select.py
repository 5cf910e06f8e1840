"""Choose, among the scored completions of each prompt, what SFT and DPO learn from."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from posttrain.core.files import atomic_write, read_rows, write_jsonl
from posttrain.core.reasoning import without_thought
from reward.errors import RewardError
from reward.ids import Row, completion_text, group_by_prompt, normalized_text, with_ids
from reward.pair_rows import pair_row, sft_row
from reward.pair_rules import RULES, Candidate, Pair, RuleOptions

Truncated = Literal["drop", "rejected"]


@dataclass
class Selection:
    """What was chosen.

    Attributes:
        sft: COMPLETION rows, the best of each prompt, with all columns of the scored row.
        pairs: PREFERENCE rows with `margin` and `chosen_…`, `rejected_…` columns.
        dropped: rows in neither, with `drop_reason`.
        summary: counts, reasons, mean lengths and warnings.
    """

    sft: list[Row] = field(default_factory=list)
    pairs: list[Row] = field(default_factory=list)
    dropped: list[Row] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)


def select(
    scored: Iterable[Mapping[str, Any]],
    rule: str = "best_of_k",
    margin: float = 0.0,
    min_score: float | None = None,
    num_pairs: int = 1,
    length_penalty: float = 0.0,
    truncated: Truncated = "drop",
    quantile: float = 0.25,
    pass_score: float = 1.0,
    max_length_gap: float = 0.25,
    seed: int = 0,
) -> Selection:
    """Take the best completion of each prompt for SFT and make pairs for DPO by a rule of `reward.pair_rules`.

    For every rule: an answer cut at the token limit is never chosen and never an SFT row, an empty one never used, as
    no trainer can learn from it; the two sides of a pair
    differ in text after normalisation, and their gap is above zero and at least `margin`; equal values are ordered by
    sample index, then model, so that the result does not depend on the order of rows.

    Args:
        scored: COMPLETION rows with `score`.
        rule: a name in `reward.pair_rules.RULES`; SFT takes the best whatever the rule.
        margin: least gap of a pair, in units of the score after the length penalty.
        min_score: answers that score below this are never chosen nor SFT rows.
        num_pairs: most pairs per prompt.
        length_penalty: subtracted from the score per character of the answer (RLHFlow used 0.001, 2405.07863).
        truncated: whether answers cut at the token limit may stand on the rejected side.
        quantile: share of the answers at each end, for the rule `top_bottom`.
        pass_score: score from which an answer is right, for the rule `pass_fail`.
        max_length_gap: warn when the mean length of chosen answers differs from that of rejected ones by more than
            this share of the latter.
        seed: of the rules that draw; each prompt draws by its own id.

    Raises:
        RewardError: unknown rule, a number out of range, or no row has a score.
        DataError: one `prompt_id` stands for two prompts.
    """
    _check_options(rule, margin, num_pairs, length_penalty, truncated, quantile)
    rows, dropped = with_ids(scored)
    if rows and not any("score" in row for row in rows):
        raise RewardError("no row has a 'score': score the completions first (`posttrain score`).")
    selection = Selection(dropped=[_without_position(row) for row in dropped])
    failures: Counter[str] = Counter()
    groups = group_by_prompt(rows)
    num_ties = 0
    for prompt_id, group in groups.items():
        candidates, unusable = _candidates(group, length_penalty, min_score, truncated)
        options = RuleOptions(quantile, pass_score, random.Random(f"{seed}:{prompt_id}"))
        pairs, failure = _choose_pairs(RULES[rule](candidates, options), margin, num_pairs)
        failures.update([_why_no_pair(candidates, failure)] if not pairs else [])
        best = next((candidate for candidate in candidates if candidate.may_win), None)
        num_ties += best is not None and _is_tied(best, candidates)
        if best is not None:
            selection.sft.append(sft_row(best))
        selection.pairs.extend(pair_row(*pair) for pair in pairs)
        selection.dropped.extend(unusable + _unused(candidates, best, pairs, min_score))
    selection.summary = _summary(rule, rows, dropped, groups, selection, failures, num_ties, max_length_gap)
    return selection


def select_file(scored: str | Path, out: str | Path, **options: Any) -> dict[str, Any]:
    """Read scored rows, write `sft.jsonl`, `pairs.jsonl`, `dropped.jsonl` and `summary.json`; return the summary.

    `options` are those of `select`.
    """
    selection = select(read_rows(scored), **options)
    out = Path(out)
    write_jsonl(out / "sft.jsonl", selection.sft)
    write_jsonl(out / "pairs.jsonl", selection.pairs)
    write_jsonl(out / "dropped.jsonl", selection.dropped)
    atomic_write(out / "summary.json", json.dumps(selection.summary, indent=2))
    return selection.summary


def _check_options(
    rule: str, margin: float, num_pairs: int, length_penalty: float, truncated: str, quantile: float
) -> None:
    if rule not in RULES:
        raise RewardError(f"unknown rule {rule!r}; choose one of {', '.join(RULES)}.")
    if not margin >= 0:
        raise RewardError(f"margin is {margin}; a gap cannot be negative, give 0 or more.")
    if num_pairs < 1:
        raise RewardError(f"num_pairs is {num_pairs}; give 1 or more.")
    if not length_penalty >= 0:
        raise RewardError(f"length_penalty is {length_penalty}; a penalty cannot be negative, give 0 or more.")
    if truncated not in ("drop", "rejected"):
        raise RewardError(f"truncated is {truncated!r}; choose 'drop' or 'rejected'.")
    if not 0 < quantile <= 0.5:
        raise RewardError(f"quantile is {quantile}; give a share above 0 and at most 0.5.")


def _candidates(
    group: Sequence[Row], length_penalty: float, min_score: float | None, truncated: Truncated
) -> tuple[list[Candidate], list[Row]]:
    """Return the usable candidates of a prompt, best first, and the unusable rows with their reason."""
    candidates: list[Candidate] = []
    unusable: list[Row] = []
    for row in group:
        score = row.get("score")
        if not isinstance(score, int | float) or not math.isfinite(score):
            unusable.append({**row, "drop_reason": row.get("drop_reason") or f"bad_score: {score}"})
            continue
        cut = row.get("finish_reason") == "length"
        if cut and truncated == "drop":
            unusable.append({**row, "drop_reason": "truncated"})
            continue
        text = completion_text(row["completion"])
        if not without_thought(text).strip():
            unusable.append({**row, "drop_reason": "empty"})
            continue
        may_win = not cut and (min_score is None or score >= min_score)
        candidates.append(Candidate(row, normalized_text(text), score - length_penalty * len(text), may_win))
    candidates.sort(key=lambda item: (-item.value, item.row["sample_index"], str(item.row.get("model"))))
    return candidates, unusable


def _choose_pairs(proposals: Iterable[Pair], margin: float, num_pairs: int) -> tuple[list[Pair], str | None]:
    """Take the first proposals that may stand, and why the very first could not."""
    pairs: list[Pair] = []
    failure: str | None = None
    for chosen, rejected in proposals:
        gap = chosen.value - rejected.value
        if chosen.text == rejected.text:
            failure = failure or "same_text"
        elif gap <= 0:
            failure = failure or "tie"
        elif gap < margin:
            failure = failure or "below_margin"
        else:
            pairs.append((chosen, rejected))
            if len(pairs) == num_pairs:
                break
    return pairs, failure


def _why_no_pair(candidates: Sequence[Candidate], failure: str | None) -> str:
    if not candidates:
        return "no_usable_completion"
    if not any(candidate.may_win for candidate in candidates):
        return "none_may_be_chosen"
    if len(candidates) == 1:
        return "only_one_usable_completion"
    return failure or "rule_proposed_none"


def _is_tied(best: Candidate, candidates: Sequence[Candidate]) -> bool:
    return any(item is not best and item.may_win and item.value == best.value for item in candidates)


def _unused(
    candidates: Sequence[Candidate], best: Candidate | None, pairs: Sequence[Pair], min_score: float | None
) -> list[Row]:
    used = {id(best)} | {id(side) for pair in pairs for side in pair}
    dropped = []
    for candidate in candidates:
        if id(candidate) not in used:
            below = min_score is not None and candidate.row["score"] < min_score
            dropped.append({**candidate.row, "drop_reason": "below_min_score" if below else "not_selected"})
    return dropped


def _without_position(row: Row) -> Row:
    return {key: value for key, value in row.items() if key != "position"}


def _summary(
    rule: str,
    rows: Sequence[Row],
    unreadable: Sequence[Row],
    groups: Mapping[str, Sequence[Row]],
    selection: Selection,
    failures: Mapping[str, int],
    num_ties: int,
    max_length_gap: float,
) -> dict[str, Any]:
    chosen = _mean_length(selection.pairs, "chosen")
    rejected = _mean_length(selection.pairs, "rejected")
    warnings = []
    if chosen is not None and rejected is not None and abs(chosen - rejected) > max_length_gap * rejected:
        warnings.append(
            f"chosen answers have {chosen:.0f} characters on average, rejected ones {rejected:.0f}: DPO will learn "
            "length along with quality; consider a length_penalty"
        )
    reasons = Counter(row["drop_reason"].split(":")[0] for row in selection.dropped)
    return {
        "rule": rule,
        "prompts": len(groups),
        "completions": len(rows) + len(unreadable),
        "kept": len(rows) + len(unreadable) - len(selection.dropped),
        "dropped": len(selection.dropped),
        "drop_reasons": dict(reasons),
        "sft_rows": len(selection.sft),
        "pairs": len(selection.pairs),
        "prompts_without_pair": dict(failures),
        "ties_broken": num_ties,
        "mean_chosen_characters": chosen,
        "mean_rejected_characters": rejected,
        "warnings": warnings,
    }


def _mean_length(pairs: Sequence[Row], side: str) -> float | None:
    if not pairs:
        return None
    return sum(len(completion_text(pair[side])) for pair in pairs) / len(pairs)
