"""Drop texts that say the same again and again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from synth.filters.length import Part
from synth.filters.partition import Dropped, Kept, partition
from synth.rows import Row, completion_text, prompt_text
from synth.words import normalized_words

# Ruler lines of Markdown (-----, =====) are no degeneration, so only letters, digits and sentence marks count.
_SAME_CHARACTER = re.compile(r"([^\W_]|[!?.,;:])\1{19,}")


def drop_repetition(
    rows: Iterable[Mapping[str, Any]], max_repeated_share: float, ngram: int = 4, part: Part = "completion"
) -> tuple[Kept, Dropped]:
    """Drop rows in which too many words stand in an n-gram that was there before.

    Gopher's filters (2112.11446, table A1) count characters of repeated n-grams; words are counted here, so that
    scripts weigh the same.

    Args:
        max_repeated_share: largest share of repeated words kept, in [0, 1].
        ngram: words that must recur together; fewer find loops of one or two words and also common phrases.

    Reasons: `repetition` with the share, `repeated_character` for twenty times the same letter, digit or mark.
    """
    text_of = prompt_text if part == "prompt" else completion_text

    def reason(row: Row) -> str | None:
        text = text_of(row)
        if _SAME_CHARACTER.search(text):
            return "repeated_character"
        share = repeated_share(text, ngram)
        return f"repetition: {share:.2f} > {max_repeated_share:g}" if share > max_repeated_share else None

    return partition(rows, reason)


def repeated_share(text: str, ngram: int = 4) -> float:
    """Give the share of a text's words that stand in an n-gram which occurred earlier in the text, in [0, 1].

    A text of fewer words than `ngram` repeats nothing.
    """
    tokens = normalized_words(text)
    if not tokens:
        return 0.0
    seen: set[tuple[str, ...]] = set()
    repeated = [False] * len(tokens)
    for start in range(len(tokens) - ngram + 1):
        gram = tuple(tokens[start : start + ngram])
        if gram in seen:
            repeated[start : start + ngram] = [True] * ngram
        seen.add(gram)
    return sum(repeated) / len(tokens)
