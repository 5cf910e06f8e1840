"""Families of more than one message: remember, go on from an earlier answer, obey a system message."""

from __future__ import annotations

import random
import re

from posttrain.practice.tasks import lists, numbers
from posttrain.practice.tasks.family import Message, OneTurn, Problem, phrase_words, plain
from posttrain.practice.tasks.lexicon import LANGUAGE_NAMES, LANGUAGES, NAMES, NOUNS, NUMBERS
from posttrain.practice.tasks.lists import noun_list
from posttrain.practice.tasks.manners import phrase
from posttrain.practice.tasks.manners import read as read_manner
from posttrain.practice.tasks.meanings import capitals

_BY_NAME: dict[str, OneTurn] = {family.name: family for family in (*lists.FAMILIES, *numbers.FAMILIES)}


def _texts(messages: list[Message], roles: list[str]) -> list[str] | None:
    """Give the messages' words, or None where the roles are others."""
    if [message["role"] for message in messages] != roles:
        return None
    return [plain(message["content"]) for message in messages]


class Remember:
    """Tell a name, a word and a number; ask for one of them a turn later."""

    name = "remember"
    _told = {
        "en": ("i am {} with {} and {}", "hello {}"),
        "de": ("ich bin {} mit {} und {}", "hallo {}"),
        "fr": ("je suis {} avec {} et {}", "bonjour {}"),
    }
    _asked = {
        "en": ("my name ?", "my word ?", "my number ?"),
        "de": ("mein name ?", "mein wort ?", "meine zahl ?"),
        "fr": ("mon nom ?", "mon mot ?", "mon nombre ?"),
    }

    def words(self) -> set[str]:
        """List the words of its phrases, in all languages."""
        return phrase_words(text for told in (*self._told.values(), *self._asked.values()) for text in told)

    def draw(self, rng: random.Random, language: str) -> list[Message]:
        """Make up a prompt in this language."""
        facts = rng.choice(NAMES), rng.choice(NOUNS[language]), rng.choice(NUMBERS)
        told, greeting = self._told[language]
        return [
            {"role": "user", "content": told.format(*facts)},
            {"role": "assistant", "content": greeting.format(facts[0])},
            {"role": "user", "content": rng.choice(self._asked[language])},
        ]

    def read(self, messages: list[Message]) -> Problem | None:
        """Find the task in a prompt; what the assistant said in between does not matter."""
        texts = _texts(messages, ["user", "assistant", "user"])
        if texts is None:
            return None
        for language in LANGUAGES:
            pattern = re.escape(self._told[language][0]).replace(r"\{\}", r"(\S+)")
            match = re.fullmatch(pattern, texts[0])
            if match and texts[2] in self._asked[language]:
                index = self._asked[language].index(texts[2])
                known = (NAMES, NOUNS[language], NUMBERS)
                if all(fact in words for fact, words in zip(match.groups(), known, strict=True)):
                    return Problem(self.name, language, match.group(index + 1), known[index])
        return None


class GoOn:
    """Give a list as an answer to a first task; then ask for something else about that answer."""

    name = "go_on"
    _asked = {
        "en": ("now in reverse", "now in capitals", "now the first", "now the last"),
        "de": ("jetzt rückwärts", "jetzt in großbuchstaben", "jetzt das erste", "jetzt das letzte"),
        "fr": ("maintenant inverse", "maintenant en majuscules", "maintenant le premier", "maintenant le dernier"),
    }
    _first_task = ("reverse", "without")

    def words(self) -> set[str]:
        """List the words of its phrases, in all languages."""
        return phrase_words(text for asked in self._asked.values() for text in asked)

    def draw(self, rng: random.Random, language: str) -> list[Message]:
        """Make up a prompt in this language, whose first answer is right and short."""
        while True:
            task = _BY_NAME[rng.choice(self._first_task)]
            text = task.text(rng, language)
            problem = task.read_text(text)
            if problem is not None and len(problem.answer.split()) > 1:
                break
        return [
            {"role": "user", "content": text},
            {"role": "assistant", "content": phrase(problem.answer, "bare", language)},
            {"role": "user", "content": rng.choice(self._asked[language])},
        ]

    def read(self, messages: list[Message]) -> Problem | None:
        """Find the task in a prompt; the list is the assistant's, right or wrong, in any manner."""
        texts = _texts(messages, ["user", "assistant", "user"])
        if texts is None:
            return None
        if all(_BY_NAME[name].read_text(texts[0]) is None for name in self._first_task):
            return None
        for language in LANGUAGES:
            words = noun_list(read_manner(texts[1], language).answer, language, low=2)
            if words is not None and texts[2] in self._asked[language]:
                index = self._asked[language].index(texts[2])
                answers = (" ".join(reversed(words)), capitals(words), words[0], words[-1])
                distractors = tuple(word.upper() for word in words) if index == 1 else words
                return Problem(self.name, language, answers[index], distractors)
        return None


class SystemLanguage:
    """Ask in one language, while the system message asks for the answer in another."""

    name = "system_language"
    _told = {"en": "answer in {}", "de": "antworte auf {}", "fr": "réponds en {}"}
    _tasks = ("first", "last", "reverse", "largest", "smallest")

    def words(self) -> set[str]:
        """List the words of its phrases, in all languages."""
        return phrase_words(self._told.values())

    def draw(self, rng: random.Random, language: str) -> list[Message]:
        """Make up a prompt whose two messages are in this language."""
        other = rng.choice([index for index, code in enumerate(LANGUAGES) if code != language])
        return [
            {"role": "system", "content": self._told[language].format(LANGUAGE_NAMES[language][other])},
            {"role": "user", "content": _BY_NAME[rng.choice(self._tasks)].text(rng, language)},
        ]

    def read(self, messages: list[Message]) -> Problem | None:
        """Find the task in a prompt; the list's words stay as they are, what is said around them changes language."""
        texts = _texts(messages, ["system", "user"])
        if texts is None:
            return None
        tasks = [problem for name in self._tasks if (problem := _BY_NAME[name].read_text(texts[1]))]
        for problem in tasks:
            for target, name in zip(LANGUAGES, LANGUAGE_NAMES[problem.language], strict=True):
                if texts[0] == self._told[problem.language].format(name):
                    return Problem(self.name, target, problem.answer, problem.distractors)
        return None


FAMILIES: tuple[Remember | GoOn | SystemLanguage, ...] = (Remember(), GoOn(), SystemLanguage())
