"""ROUGE-L novelty against a growing pool, exact, without comparing with all of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from fractions import Fraction

from posttrain.core.likeness import task_tokens


def rouge_l(a: Sequence[str], b: Sequence[str]) -> Fraction:
    """Give the ROUGE-L F-measure of two token sequences (Lin, 2004): 2 · LCS / (|a| + |b|); 0 where one is empty."""
    return Fraction(2 * longest_common_subsequence(a, b), len(a) + len(b)) if a and b else Fraction(0)


def longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Give the length of the longest common subsequence, in |b| operations on |a|-bit integers (Hyyrö, 2004)."""
    positions: dict[str, int] = defaultdict(int)
    for place, token in enumerate(a):
        positions[token] |= 1 << place
    full = (1 << len(a)) - 1
    state = full
    for token in b:
        matches = state & positions.get(token, 0)
        state = ((state + matches) | (state - matches)) & full
    return len(a) - state.bit_count()


class NoveltyIndex:
    """Tell whether a text is new to a pool: no text in it has a ROUGE-L above the threshold.

    The decisions are those of comparing with every text. Two bounds skip most of the work. The multiset overlap of
    the tokens bounds the common subsequence. And a pair above the threshold shares more than t·m/(2 - t) of a text's
    m tokens, so it shares one of the rarest others: only texts with one of these are looked at.

    Args:
        max_rouge_l: F-measure in [0, 1] above which a text is known; one that equals it is new. None: all are new.
    """

    def __init__(self, max_rouge_l: float | None) -> None:
        # The decimal that was written, not the nearest binary fraction: 0.7 · 10 is 7.
        self._limit = None if max_rouge_l is None else Fraction(str(max_rouge_l))
        self._texts: list[list[str]] = []
        self._counts: list[Counter[str]] = []
        self._postings: dict[tuple[str, int], list[int]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, text: str) -> int:
        """Put a text into the pool and give its number there."""
        tokens = task_tokens(text)
        number = len(self._texts)
        self._texts.append(tokens)
        self._counts.append(Counter(tokens))
        for element in _numbered(tokens):
            self._postings[element].append(number)
        return number

    def known_as(self, text: str) -> tuple[int, float] | None:
        """Give the first pool text whose ROUGE-L to `text` is above the threshold, and that value; None where new."""
        if self._limit is None:
            return None
        tokens = task_tokens(text)
        counts = Counter(tokens)
        for number in self._candidates(tokens):
            limit = self._limit * (len(tokens) + len(self._texts[number]))
            if 2 * (counts & self._counts[number]).total() <= limit:
                continue
            value = rouge_l(tokens, self._texts[number])
            if value > self._limit:
                return number, float(value)
        return None

    def _candidates(self, tokens: Sequence[str]) -> list[int]:
        assert self._limit is not None  # known_as returned before
        # Least common subsequence that can pass: the smallest whole number above t·m / (2 - t).
        needed = int(self._limit * len(tokens) / (2 - self._limit)) + 1
        elements = sorted(_numbered(tokens), key=lambda element: (len(self._postings.get(element, ())), element))
        rarest = elements[: max(0, len(elements) - needed + 1)]
        return sorted({number for element in rarest for number in self._postings.get(element, ())})


def _numbered(tokens: Sequence[str]) -> list[tuple[str, int]]:
    """Make a multiset a set: the second "the" is another element than the first."""
    seen: Counter[str] = Counter()
    numbered = []
    for token in tokens:
        numbered.append((token, seen[token]))
        seen[token] += 1
    return numbered
