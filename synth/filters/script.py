"""Keep rows whose writing system fits: one script in a prompt, and the prompt's script in its completion."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from synth.errors import SynthError
from synth.filters.length import Part
from synth.filters.partition import Dropped, Kept, partition
from synth.rows import Row, answer_text, content_of, prompt_messages, prompt_text

_NO_LANGUAGE = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\$[^$\n]*\$|<[^<>\n]*>|https?://\S+|(?<!\S)[^\s@]++@\S+", re.DOTALL
)
_JAPANESE_KANA_SHARE = 0.1
_NAMES = {"CJK": "HAN", "HIRAGANA": "KANA", "KATAKANA": "KANA", "BOPOMOFO": "HAN"}


def prose(text: str) -> str:
    """Return a text without code, formulas, links and markup, which are Latin in every language."""
    return _NO_LANGUAGE.sub(" ", text)


def script_shares(text: str) -> dict[str, float]:
    """Give each script's share of the letters outside code, formulas and links, largest first.

    Scripts go by their Unicode names (LATIN, CYRILLIC, ARABIC, DEVANAGARI, HANGUL, …); Han characters are HAN, or
    JAPANESE together with the kana where a tenth of both are kana. Empty where there is no letter.
    """
    counts = Counter(_script(character) for character in prose(text) if character.isalpha())
    han, kana = counts.pop("HAN", 0), counts.pop("KANA", 0)
    if han + kana:
        counts["JAPANESE" if kana >= _JAPANESE_KANA_SHARE * (han + kana) else "HAN"] = han + kana
    total = counts.total()
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {script: count / total for script, count in ordered}


def main_script(text: str, min_letters: int = 3) -> str | None:
    """Name the script of most letters, or None where fewer than `min_letters` letters leave it open."""
    letters = sum(character.isalpha() for character in prose(text))
    return next(iter(script_shares(text))) if letters >= min_letters else None


def keep_scripts(
    rows: Iterable[Mapping[str, Any]], scripts: Sequence[str], min_share: float = 0.8, part: Part = "prompt"
) -> tuple[Kept, Dropped]:
    """Keep rows that are written in the scripts of a recipe's languages; texts without letters are kept.

    Args:
        scripts: names as `script_shares` gives them; all that are named count together.
        min_share: smallest share of letters in these scripts, in [0, 1].

    Raises:
        SynthError: a name is no script's name.
    """
    _check_names(scripts)
    text_of = prompt_text if part == "prompt" else answer_text

    def reason(row: Row) -> str | None:
        shares = script_shares(text_of(row))
        if not shares or sum(shares.get(script, 0.0) for script in scripts) >= min_share:
            return None
        return f"script: {next(iter(shares))}"

    return partition(rows, reason)


def drop_mixed_scripts(
    rows: Iterable[Mapping[str, Any]], min_share: float = 0.8, part: Part = "prompt"
) -> tuple[Kept, Dropped]:
    """Drop rows in which no script has `min_share` of the letters: a sampler that slipped between languages.

    A task to translate may mix scripts rightly; look at what was dropped. Reason: `mixed_scripts` with the two largest.
    """
    text_of = prompt_text if part == "prompt" else answer_text

    def reason(row: Row) -> str | None:
        shares = script_shares(text_of(row))
        if not shares or next(iter(shares.values())) >= min_share:
            return None
        return f"mixed_scripts: {' '.join(list(shares)[:2])}"

    return partition(rows, reason)


def keep_script_of_prompt(
    rows: Iterable[Mapping[str, Any]], exempt: Callable[[Row], bool] = lambda row: False, min_letters: int = 3
) -> tuple[Kept, Dropped]:
    """Keep completions in the script of the last user message: asked in Hindi, answered in Hindi.

    Undetermined texts (code, numbers, "ok") are kept.

    Args:
        exempt: says which rows may change the script, translations for example.
        min_letters: letters that a text needs before its script counts.
    """

    def reason(row: Row) -> str | None:
        answer = answer_text(row)
        asked = [content_of(message) for message in prompt_messages(row) if message["role"] == "user"]
        wanted = main_script(asked[-1], min_letters) if asked else None
        got = main_script(answer, min_letters)
        if wanted is None or got is None or wanted in _readable_as(got) or exempt(row):
            return None
        return f"script_mismatch: {got} for {wanted}"

    return partition(rows, reason)


def _readable_as(script: str) -> tuple[str, ...]:
    # A short Japanese text may hold no kana, and is then not told from Chinese.
    return ("HAN", "JAPANESE") if script in ("HAN", "JAPANESE") else (script,)


@lru_cache(maxsize=65536)
def _script(character: str) -> str:
    name = unicodedata.name(character, "UNKNOWN").removeprefix("FULLWIDTH ").removeprefix("HALFWIDTH ")
    first = name.split(" ")[0].split("-")[0]
    return _NAMES.get(first, first)


@lru_cache(maxsize=1)
def _all_scripts() -> frozenset[str]:
    letters = (chr(code) for code in range(0x20000) if chr(code).isalpha())
    return frozenset({_script(letter) for letter in letters} - {"KANA", "UNKNOWN"} | {"JAPANESE"})


def _check_names(scripts: Sequence[str]) -> None:
    unknown = [script for script in scripts if script not in _all_scripts()]
    if unknown or not scripts:
        raise SynthError(
            f"scripts {list(scripts)}: {unknown or 'none'} given; expected Unicode script names in capitals, "
            "for example LATIN, CYRILLIC, ARABIC, DEVANAGARI, THAI, HANGUL, HAN, JAPANESE"
        )
