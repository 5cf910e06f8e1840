"""Recognise a generator's own words in what it made."""

from __future__ import annotations

import re
from collections.abc import Iterable

from synth.filters.phrases import PhraseFinder
from synth.words import normalized_words

_SLOT = re.compile(r"\{[A-Za-z_][\w ]*\}|#[A-Z][\w ]*#|<[A-Za-z_][\w ]*>")
_CLAUSE_END = re.compile(r"[.,;:!?()\n]|\{[A-Za-z_]\w*\}")
_MIN_WORDS = 3
_WINDOW_WORDS = 5


class ScaffoldFinder:
    """Find fragments of a template, or its unfilled slots, in generated texts.

    Args:
        template: the text of the template.
        allowed: texts that may be found, demonstrations for example; a fragment that one of them contains is no leak.
    """

    def __init__(self, template: str, allowed: Iterable[str] = ()) -> None:
        self.slots = sorted(set(_SLOT.findall(template)))
        fragments = {fragment for clause in _CLAUSE_END.split(template) for fragment in _fragments(clause)}
        finder = PhraseFinder(fragments)
        for text in allowed:
            while (found := finder.find(text)) is not None:
                fragments.discard(found)
                finder = PhraseFinder(fragments)
        self.fragments = fragments
        self._finder = finder

    def find(self, text: str) -> str | None:
        """Give the first piece of the template that `text` contains, or None."""
        slot = next((slot for slot in self.slots if slot in text), None)
        return slot if slot is not None else self._finder.find(text)


def _fragments(clause: str) -> list[str]:
    """List what betrays a clause: itself where it has three to five words, else each run of five."""
    tokens = normalized_words(clause)
    if len(tokens) < _MIN_WORDS:
        return []
    width = min(len(tokens), _WINDOW_WORDS)
    return [" ".join(tokens[start : start + width]) for start in range(len(tokens) - width + 1)]
