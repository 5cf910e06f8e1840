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
    words = draw_words(rng, language, 2, 3)
    return {"n": str(rng.randint(1, len(words))), "words": " ".join(words)}


def _position(slots: Slots, language: str) -> Solved:
    words = noun_list(slots["words"], language, low=2)
    if words is None or slots["n"] not in NUMBERS or not 1 <= int(slots["n"]) <= len(words):
        return None
    return words[int(slots["n"]) - 1], words


def _count(slots: Slots, language: str) -> Solved:
    words = noun_list(slots["words"], language)
    return None if words is None else (str(len(words)), NUMBERS[1 : LONGEST_LIST + 1])


def _draw_without(rng: random.Random, language: str) -> Slots:
    words = draw_words(rng, language, 2, 3)
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
    words = draw_words(rng, language, 2, 3)
    word = rng.choice(words if rng.random() < 0.5 else [noun for noun in NOUNS[language] if noun not in words])
    return {"word": word, "words": " ".join(words)}


def _contains(slots: Slots, language: str) -> Solved:
    words = noun_list(slots["words"], language, low=2)
    if words is None or slots["word"] not in NOUNS[language]:
        return None
    return YES_NO[language][0 if slots["word"] in words else 1], YES_NO[language]


FAMILIES: tuple[OneTurn, ...] = (
    OneTurn(
        "reverse",
        {"en": "reverse : {words}", "de": "rückwärts : {words}", "fr": "inverse : {words}"},
        drawing(2, 3),
        solving(2, lambda words: " ".join(reversed(words))),
    ),
    OneTurn(
        "first",
        {"en": "first word of : {words}", "de": "erstes wort von : {words}", "fr": "premier mot de : {words}"},
        drawing(2, 3),
        solving(2, lambda words: words[0]),
    ),
    OneTurn(
        "last",
        {"en": "last word of : {words}", "de": "letztes wort von : {words}", "fr": "dernier mot de : {words}"},
        drawing(2, 3),
        solving(2, lambda words: words[-1]),
    ),
    OneTurn(
        "position",
        {"en": "word {n} of : {words}", "de": "wort {n} von : {words}", "fr": "mot {n} de : {words}"},
        _draw_position,
        _position,
    ),
    OneTurn(
        "count",
        {"en": "how many words : {words}", "de": "wie viele wörter : {words}", "fr": "combien de mots : {words}"},
        drawing(1, 5),
        _count,
    ),
    OneTurn(
        "without",
        {"en": "without {word} : {words}", "de": "ohne {word} : {words}", "fr": "sans {word} : {words}"},
        _draw_without,
        _without,
    ),
    OneTurn(
        "repeat",
        {"en": "say {n} times : {words}", "de": "sage {n} mal : {words}", "fr": "dis {n} fois : {words}"},
        _draw_repeat,
        _repeat,
    ),
    OneTurn(
        "contains",
        {"en": "is {word} in : {words} ?", "de": "ist {word} in : {words} ?", "fr": "{word} est dans : {words} ?"},
        _draw_contains,
        _contains,
    ),
)
