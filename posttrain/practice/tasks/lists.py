"""Families about lists of words: order, position, number, membership."""

from __future__ import annotations

import random
from collections.abc import Callable

from posttrain.practice.tasks.family import OneTurn, Slots, Solve, Solved
from posttrain.practice.tasks.lexicon import NOUNS, NUMBERS, YES_NO

LONGEST_LIST = 6


def draw_words(rng: random.Random, language: str, low: int, high: int) -> list[str]:
    """Draw between `low` and `high` different nouns."""
    return rng.sample(NOUNS[language], rng.randint(low, high))


def noun_list(text: str, language: str, low: int = 1) -> tuple[str, ...] | None:
    """Read a list of at least `low` nouns; None where a word is no noun or the list is too short or too long."""
    words = tuple(text.split())
    known = all(word in NOUNS[language] for word in words)
    return words if known and low <= len(words) <= LONGEST_LIST else None


def drawing(low: int, high: int) -> Callable[[random.Random, str], Slots]:
    """Give the function that fills the slot `words` with `low` to `high` nouns."""

    def draw(rng: random.Random, language: str) -> Slots:
        return {"words": " ".join(draw_words(rng, language, low, high))}

    return draw


def solving(low: int, answer: Callable[[tuple[str, ...]], str]) -> Solve:
    """Give the function that answers a list of at least `low` nouns; wrong answers are made of its words."""

    def solve(slots: Slots, language: str) -> Solved:
        words = noun_list(slots["words"], language, low)
        return None if words is None else (answer(words), words)

    return solve


def _draw_position(rng: random.Random, language: str) -> Slots:
    words = draw_words(rng, language, 3, 4)
    return {"n": str(rng.randint(2, len(words))), "words": " ".join(words)}


def _position(slots: Slots, language: str) -> Solved:
    words = noun_list(slots["words"], language, low=2)
    if words is None or slots["n"] not in NUMBERS or not 1 <= int(slots["n"]) <= len(words):
        return None
    return words[int(slots["n"]) - 1], words


def _count(slots: Slots, language: str) -> Solved:
    words = noun_list(slots["words"], language)
    return None if words is None else (str(len(words)), NUMBERS[1 : LONGEST_LIST + 1])


def _draw_without(rng: random.Random, language: str) -> Slots:
    words = draw_words(rng, language, 2, 4)
    return {"word": rng.choice(words), "words": " ".join(words)}


def _without(slots: Slots, language: str) -> Solved:
    words = noun_list(slots["words"], language, low=2)
    if words is None or slots["word"] not in words:
        return None
    left = [word for word in words if word != slots["word"]]
    return (" ".join(left), words) if left else None


def _draw_repeat(rng: random.Random, language: str) -> Slots:
    return {"n": str(rng.randint(2, 3)), "words": " ".join(draw_words(rng, language, 1, 2))}


def _repeat(slots: Slots, language: str) -> Solved:
    words = noun_list(slots["words"], language)
    if (
        words is None
        or slots["n"] not in NUMBERS[1 : LONGEST_LIST + 1]
        or len(words) * int(slots["n"]) > 2 * LONGEST_LIST
    ):
        return None
    return " ".join(words * int(slots["n"])), NOUNS[language]


def _draw_contains(rng: random.Random, language: str) -> Slots:
    words = draw_words(rng, language, 2, 4)
    word = rng.choice(words if rng.random() < 0.5 else [noun for noun in NOUNS[language] if noun not in words])
    return {"word": word, "words": " ".join(words)}


def _contains(slots: Slots, language: str) -> Solved:
    words = noun_list(slots["words"], language, low=2)
    if words is None or slots["word"] not in NOUNS[language]:
        return None
    return YES_NO[language][0 if slots["word"] in words else 1], YES_NO[language]


def _phrases(en: str, de: str, fr: str, es: str) -> dict[str, str]:
    return {"en": en, "de": de, "fr": fr, "es": es}


FAMILIES: tuple[OneTurn, ...] = (
    OneTurn(
        "reverse",
        _phrases("reverse : {words}", "rückwärts : {words}", "inverse : {words}", "invierte : {words}"),
        drawing(2, 4),
        solving(2, lambda words: " ".join(reversed(words))),
    ),
    OneTurn(
        "first",
        _phrases(
            "first word of : {words}",
            "erstes wort von : {words}",
            "premier mot de : {words}",
            "primera palabra de : {words}",
        ),
        drawing(2, 4),
        solving(2, lambda words: words[0]),
    ),
    OneTurn(
        "last",
        _phrases(
            "last word of : {words}",
            "letztes wort von : {words}",
            "dernier mot de : {words}",
            "última palabra de : {words}",
        ),
        drawing(2, 4),
        solving(2, lambda words: words[-1]),
    ),
    OneTurn(
        "position",
        _phrases("word {n} of : {words}", "wort {n} von : {words}", "mot {n} de : {words}", "palabra {n} de : {words}"),
        _draw_position,
        _position,
    ),
    OneTurn(
        "count",
        _phrases(
            "how many words : {words}",
            "wie viele wörter : {words}",
            "combien de mots : {words}",
            "cuántas palabras : {words}",
        ),
        drawing(1, 6),
        _count,
    ),
    OneTurn(
        "without",
        _phrases("without {word} : {words}", "ohne {word} : {words}", "sans {word} : {words}", "sin {word} : {words}"),
        _draw_without,
        _without,
    ),
    OneTurn(
        "repeat",
        _phrases(
            "say {n} times : {words}", "sage {n} mal : {words}", "dis {n} fois : {words}", "di {n} veces : {words}"
        ),
        _draw_repeat,
        _repeat,
    ),
    OneTurn(
        "contains",
        _phrases(
            "is {word} in : {words} ?",
            "ist {word} in : {words} ?",
            "{word} est dans : {words} ?",
            "está {word} en : {words} ?",
        ),
        _draw_contains,
        _contains,
    ),
)
