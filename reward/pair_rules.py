"""Rules that choose which completions of a prompt become chosen and rejected.

A rule gets the candidates of one prompt, best first, and proposes pairs, the most wanted first. `reward.select` then
applies what holds for every rule: the margin, different texts, no truncated answer chosen, the number of pairs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from reward.ids import Row


@dataclass(frozen=True)
class Candidate:
    """One scored completion.

    Attributes:
        row: the scored row.
        text: its text, for comparison.
        value: its score less the length penalty.
        may_win: False for an answer that was cut at the token limit or lies below the least score.
    """

    row: Row
    text: str
    value: float
    may_win: bool


@dataclass(frozen=True)
class RuleOptions:
    """Numbers that some rules read.

    Attributes:
        quantile: share of the candidates at each end, for `top_bottom`.
        pass_score: score from which an answer counts as right, for `pass_fail`.
        random: source of chance of this prompt, for rules that draw.
    """

    quantile: float
    pass_score: float
    random: random.Random


Pair = tuple[Candidate, Candidate]
Rule = Callable[[Sequence[Candidate], RuleOptions], Iterator[Pair]]


def best_vs_worst(candidates: Sequence[Candidate], options: RuleOptions) -> Iterator[Pair]:
    """Pair the best with the worst (RLHFlow's max_min, 2405.07863; rejection sampling as in 2407.21783 §4.2.2)."""
    for best in _winners(candidates)[:1]:
        yield from ((best, other) for other in reversed(candidates) if other is not best)


def best_vs_random(candidates: Sequence[Candidate], options: RuleOptions) -> Iterator[Pair]:
    """Pair the best with a random lower one (Tülu 3, 2411.15124 §5.2)."""
    for best in _winners(candidates)[:1]:
        lower = [other for other in candidates if other.value < best.value]
        options.random.shuffle(lower)
        yield from ((best, other) for other in lower)


def best_vs_second(candidates: Sequence[Candidate], options: RuleOptions) -> Iterator[Pair]:
    """Pair the best with the next lower one, a hard pair (max_max in RLHFlow's Online-RLHF code)."""
    for best in _winners(candidates)[:1]:
        yield from ((best, other) for other in candidates if other.value < best.value)


def top_bottom(candidates: Sequence[Candidate], options: RuleOptions) -> Iterator[Pair]:
    """Pair the top share with the bottom share, best with worst, second with second worst, and so on.

    Several pairs per prompt, at most `quantile` of the candidates at each end and never an answer on both sides.
    """
    count = min(max(1, math.floor(options.quantile * len(candidates))), len(candidates) // 2)
    top = _winners(candidates)[:count]
    bottom = [other for other in reversed(candidates) if all(other is not best for best in top)][:count]
    yield from zip(top, bottom, strict=False)


def pass_fail(candidates: Sequence[Candidate], options: RuleOptions) -> Iterator[Pair]:
    """Pair right answers with wrong ones, drawn at random (Iterative RPO, 2404.19733 §2: 10 to 20 pairs per prompt)."""
    right = [candidate for candidate in _winners(candidates) if candidate.row["score"] >= options.pass_score]
    wrong = [candidate for candidate in candidates if candidate.row["score"] < options.pass_score]
    pairs = [(better, worse) for better in right for worse in wrong]
    options.random.shuffle(pairs)
    yield from pairs


def _winners(candidates: Sequence[Candidate]) -> list[Candidate]:
    return [candidate for candidate in candidates if candidate.may_win]


RULES: dict[str, Rule] = {
    "best_of_k": best_vs_worst,
    "max_min": best_vs_worst,
    "best_vs_random": best_vs_random,
    "best_vs_second": best_vs_second,
    "top_bottom": top_bottom,
    "pass_fail": pass_fail,
}
"""Names as in a recipe. `best_of_k` and `max_min` name one pair, as two communities do; SFT is the best in any case."""
