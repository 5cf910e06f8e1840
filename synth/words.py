"""Split text into words, in any script."""

from __future__ import annotations

import re
import unicodedata

# Scripts written without spaces: a character, with the marks on it, stands for a word.
_UNSPACED = (
    "\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46"  # Thai letters; the marks follow below
    "\u0e81-\u0eb0\u0eb2\u0eb3\u0ebd-\u0ec6"  # Lao
    "\u1000-\u102a\u103f"  # Burmese
    "\u1780-\u17b3"  # Khmer
    "\u3041-\u30ff\u31f0-\u31ff"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"  # Han
)
# Marks that `\w` does not match although they stand inside words: combining accents, Hebrew and Arabic points,
# vowel signs of the Indic scripts, of Thai, Lao, Burmese and Khmer, and the joiners.
_MARKS = (
    "\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670"
    "\u0900-\u0903\u093a-\u094f\u0951-\u0957\u0962\u0963\u0980-\u0983\u09bc-\u09d7\u0a01-\u0a03\u0a3c-\u0a51"
    "\u0a81-\u0a83\u0abc-\u0acd\u0b01-\u0b03\u0b3c-\u0b57\u0b82\u0bbe-\u0bd7\u0c00-\u0c04\u0c3c-\u0c56"
    "\u0c81-\u0c83\u0cbc-\u0cd6\u0d00-\u0d03\u0d3b-\u0d4d\u0d57\u0d81-\u0d83\u0dca-\u0ddf"
    "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd\u102b-\u103e\u17b4-\u17d3\u200c\u200d"
)
_WORD = re.compile(f"[{_UNSPACED}][{_MARKS}]*|(?:[^\\W{_UNSPACED}]|[{_MARKS}])+")


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
