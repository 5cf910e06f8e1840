"""What a task family is: it draws prompts, and it reads its task back out of any prompt."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from posttrain.practice.tasks.lexicon import LANGUAGES

Message = dict[str, str]


@dataclass(frozen=True)
class Problem:
    """Hold a task as read: what would be right, in which language to say it, and what wrong answers are made of."""

    family: str
    language: str
    answer: str
    distractors: tuple[str, ...]


class Family(Protocol):
    """Draw prompts of one kind, and read them."""

    name: str

    def words(self) -> set[str]:
        """List the words of its phrases, in all languages."""

    def draw(self, rng: random.Random, language: str) -> list[Message]:
        """Make up a prompt in this language."""

    def read(self, messages: list[Message]) -> Problem | None:
        """Find the task in a prompt; None where it is not one of this family."""


Slots = dict[str, str]
#: right answer and distractors, or None where the slots make no task
Solved = tuple[str, tuple[str, ...]] | None
Solve = Callable[[Slots, str], Solved]


class OneTurn:
    """Be a family whose prompt is one user message: a phrase with slots in each language.

    Args:
        phrases: by language, a text such as `"without {word} : {words}"`.
        draw_slots: makes up the texts of the slots.
        solve: gives the right answer, or None for slots that make no sense.
    """

    def __init__(
        self, name: str, phrases: dict[str, str], draw_slots: Callable[[random.Random, str], Slots], solve: Solve
    ) -> None:
        self.name = name
        self.phrases = phrases
        self.draw_slots = draw_slots
        self.solve = solve
        self._patterns = {language: _pattern(phrases[language]) for language in LANGUAGES}

    def words(self) -> set[str]:
        """List the words of its phrases, in all languages."""
        return phrase_words(self.phrases.values())

    def text(self, rng: random.Random, language: str) -> str:
        """Make up the user's words."""
        return self.phrases[language].format(**self.draw_slots(rng, language))

    def draw(self, rng: random.Random, language: str) -> list[Message]:
        """Make up a prompt in this language."""
        return [{"role": "user", "content": self.text(rng, language)}]

    def read_text(self, text: str) -> Problem | None:
        """Find the task in the user's words; None where they are no task of this family."""
        for language, pattern in self._patterns.items():
            match = pattern.fullmatch(text)
            if match is None:
                continue
            solved = self.solve(match.groupdict(), language)
            if solved is not None:
                return Problem(self.name, language, *solved)
        return None

    def read(self, messages: list[Message]) -> Problem | None:
        """Find the task in a prompt of a single user message."""
        if [message["role"] for message in messages] != ["user"]:
            return None
        return self.read_text(plain(messages[0]["content"]))


def phrase_words(phrases: Iterable[str]) -> set[str]:
    """List the words of phrases, leaving out their slots."""
    return {word for text in phrases for word in text.split() if not word.startswith("{")}


def plain(text: str) -> str:
    """Join the words of a text with single blanks, as the tokenizer gives them back."""
    return " ".join(text.split())


def _pattern(phrase: str) -> re.Pattern[str]:
    pieces = re.split(r"\{(\w+)\}", phrase)
    return re.compile("".join(f"(?P<{piece}>.+)" if odd % 2 else re.escape(piece) for odd, piece in enumerate(pieces)))
