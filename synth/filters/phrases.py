"""Drop rows that contain one of a list of phrases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from synth.filters.length import Part
from synth.filters.partition import Dropped, Kept, partition
from synth.rows import Row, answer_text, prompt_text
from synth.words import normalized_words


def drop_phrases(
    rows: Iterable[Mapping[str, Any]], phrases: Sequence[str], part: Part = "prompt"
) -> tuple[Kept, Dropped]:
    """Drop rows whose text contains one of the phrases as whole words, whatever the case and punctuation.

    Self-Instruct's list of tasks that text cannot solve is one such list ("draw", "upload", "this image").
    Reason: `phrase`, with the phrase behind the colon.
    """
    text_of = prompt_text if part == "prompt" else answer_text
    finder = PhraseFinder(phrases)

    def reason(row: Row) -> str | None:
        found = finder.find(text_of(row))
        return f"phrase: {found}" if found is not None else None

    return partition(rows, reason)


class PhraseFinder:
    """Find phrases in texts word by word.

    Args:
        phrases: those without any word (punctuation alone) are left out.
    """

    def __init__(self, phrases: Iterable[str]) -> None:
        self._phrases = {tuple(normalized_words(phrase)): phrase for phrase in phrases}
        self._phrases.pop((), None)
        self._lengths = sorted({len(key) for key in self._phrases})

    def find(self, text: str) -> str | None:
        """Give the first phrase that `text` contains, or None."""
        tokens = normalized_words(text)
        for start in range(len(tokens)):
            for length in self._lengths:
                phrase = self._phrases.get(tuple(tokens[start : start + length]))
                if phrase is not None:
                    return phrase
        return None
