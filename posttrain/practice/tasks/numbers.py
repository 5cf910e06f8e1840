"""Families about small numbers: compare, order, add one."""

from __future__ import annotations

import random
from collections.abc import Callable

from posttrain.practice.tasks.family import OneTurn, Slots, Solve, Solved
from posttrain.practice.tasks.lexicon import LARGEST_NUMBER, NUMBERS


def _draw_numbers(rng: random.Random, language: str) -> Slots:
    return {"numbers": " ".join(str(n) for n in rng.sample(range(LARGEST_NUMBER + 1), rng.randint(2, 3)))}


def _draw_below_largest(rng: random.Random, language: str) -> Slots:
    return {"numbers": " ".join(str(n) for n in rng.sample(range(LARGEST_NUMBER), rng.randint(1, 3)))}


def number_list(text: str, low: int) -> list[int] | None:
    """Read between `low` and four different numbers of the world; None for anything else."""
    words = text.split()
    if not low <= len(words) <= 4 or len(set(words)) < len(words) or any(word not in NUMBERS for word in words):
        return None
    return [int(word) for word in words]


def _comparing(answer: Callable[[list[int]], str]) -> Solve:
    """Give the function that answers a list of numbers; wrong answers are made of the same numbers."""

    def solve(slots: Slots, language: str) -> Solved:
        numbers = number_list(slots["numbers"], low=2)
        return None if numbers is None else (answer(numbers), tuple(str(number) for number in numbers))

    return solve


def _add_one(slots: Slots, language: str) -> Solved:
    numbers = number_list(slots["numbers"], low=1)
    if numbers is None or max(numbers) == LARGEST_NUMBER:
        return None
    near = {str(n + step) for n in numbers for step in (0, 1, 2) if n + step <= LARGEST_NUMBER}
    return " ".join(str(n + 1) for n in numbers), tuple(sorted(near))


FAMILIES: tuple[OneTurn, ...] = (
    OneTurn(
        "largest",
        {
            "en": "largest of : {numbers}",
            "de": "größte von : {numbers}",
            "fr": "plus grand de : {numbers}",
        },
        _draw_numbers,
        _comparing(lambda numbers: str(max(numbers))),
    ),
    OneTurn(
        "smallest",
        {
            "en": "smallest of : {numbers}",
            "de": "kleinste von : {numbers}",
            "fr": "plus petit de : {numbers}",
        },
        _draw_numbers,
        _comparing(lambda numbers: str(min(numbers))),
    ),
    OneTurn(
        "sort",
        {"en": "sort : {numbers}", "de": "sortiere : {numbers}", "fr": "trie : {numbers}"},
        _draw_numbers,
        _comparing(lambda numbers: " ".join(str(number) for number in sorted(numbers))),
    ),
    OneTurn(
        "add_one",
        {
            "en": "add one : {numbers}",
            "de": "eins mehr : {numbers}",
            "fr": "ajoute un : {numbers}",
        },
        _draw_below_largest,
        _add_one,
    ),
)
