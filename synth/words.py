"""Find and count words, in any script; a sign is no word. Whether two texts are the same: `posttrain.core.likeness`."""

from __future__ import annotations

import re
import unicodedata

from posttrain.core.likeness import MARKS, UNSPACED

_WORD = re.compile(f"[{UNSPACED}][{MARKS}]*|(?:[^\\W{UNSPACED}]|[{MARKS}])+")


def words(text: str) -> list[str]:
    """Split a text into words as they stand; of Chinese, Japanese, Thai and their like into characters."""
    return _WORD.findall(text)


def normalized_words(text: str) -> list[str]:
    """Split a text into words after NFKC and case folding; punctuation and line breaks vanish."""
    return _WORD.findall(fold(text))


def fold(text: str) -> str:
    """Bring a text to NFKC and fold its case."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", text).casefold()
