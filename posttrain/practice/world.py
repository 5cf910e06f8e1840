"""The practice world: prompts of nineteen task families, and the gold score of any answer to them.

The verifier reads the task out of the prompt itself, so it also judges prompts that a model has written.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from posttrain.core.formats import prompt_id
from posttrain.practice.tasks import dialogues, lexicon, lists, manners, meanings, numbers
from posttrain.practice.tasks.family import Family, Message, Problem, plain
from posttrain.practice.tasks.lexicon import LANGUAGES
from posttrain.practice.tasks.manners import FOREIGN, RIGHT_SCORE, UNCLEAR, WANTED, WRONG_SCORE, phrase, read

_FAMILIES: dict[str, Family] = {
    family.name: family for family in (*lists.FAMILIES, *meanings.FAMILIES, *numbers.FAMILIES, *dialogues.FAMILIES)
}
FAMILIES: tuple[str, ...] = tuple(_FAMILIES)

UNREADABLE = "the prompt is no task of the practice world"

#: draws in a row that may bring nothing new before a family counts as used up
PATIENCE = 400
#: one prompt in this many is held out: no pretraining text and no training prompt is one of them
HELD_OUT_ONE_IN = 8


@dataclass(frozen=True)
class Verdict:
    """Hold the gold judgement of one answer.

    Attributes:
        score: in [0, 1]; None where the prompt could not be read.
        correct: whether the bare answer is right, in whatever manner; None as above.
        manner: one of `manners.MANNERS`, "foreign" (the wanted manner in another language) or "unclear".
        reason: a few words for a person.
        family: the task family, None where the prompt could not be read.
    """

    score: float | None
    correct: bool | None
    manner: str
    reason: str
    family: str | None


def vocabulary() -> list[str]:
    """List all words of the world in a fixed order: of tasks, of manners, of content."""
    phrases = {word for family in _FAMILIES.values() for word in family.words()}
    return sorted(phrases | manners.words() | lexicon.all_words())


def draw_prompt(family: str, rng: random.Random, language: str) -> list[Message]:
    """Make up one prompt of a family in a language.

    Raises:
        KeyError: for a family that is not one of `FAMILIES`.
    """
    return _FAMILIES[family].draw(rng, language)


def is_held_out(prompt: list[Message]) -> bool:
    """Tell whether a prompt belongs to the share that models are evaluated on and never trained on, by its hash."""
    return int(prompt_id(prompt), 16) % HELD_OUT_ONE_IN == 0


def contains_held_out(prompt: list[Message]) -> bool:
    """Tell whether a prompt is held out, or a dialogue that holds such a prompt with its answer."""
    turns = (end for end, message in enumerate(prompt, start=1) if message["role"] == "user")
    return any(is_held_out(prompt[:end]) for end in turns)


def draw_training_prompt(family: str, rng: random.Random, language: str) -> list[Message]:
    """Make up one prompt that is not held out."""
    while True:
        prompt = draw_prompt(family, rng, language)
        if not contains_held_out(prompt):
            return prompt


def make_prompts(
    num_prompts: int, seed: int, exclude: Iterable[str] = frozenset(), held_out: bool = False
) -> list[dict[str, Any]]:
    """Draw different prompts, families and languages in equal shares, as far as a family has so many.

    Args:
        exclude: `prompt_id`s that must not come up.
        held_out: whether all of them are held-out prompts, or none.

    Raises:
        ValueError: where the world has fewer prompts than asked for.
    """
    rng = random.Random(f"prompts {seed}")
    seen = set(exclude)
    rows: list[dict[str, Any]] = []
    left = list(FAMILIES)
    while len(rows) < num_prompts and left:
        for family in tuple(left):
            row = _new_prompt(family, rng, seen, held_out)
            if row is None:
                left.remove(family)
            elif len(rows) < num_prompts:
                rows.append(row)
    if len(rows) < num_prompts:
        raise ValueError(f"the practice world has only {len(rows)} such prompts, not {num_prompts}: ask for fewer")
    rng.shuffle(rows)
    return rows


def _new_prompt(family: str, rng: random.Random, seen: set[str], held_out: bool) -> dict[str, Any] | None:
    for _ in range(PATIENCE):
        language = rng.choice(LANGUAGES)
        messages = draw_prompt(family, rng, language)
        identity = prompt_id(messages)
        wanted = is_held_out(messages) if held_out else not contains_held_out(messages)
        if wanted and identity not in seen:
            seen.add(identity)
            return {
                "prompt": messages,
                "prompt_id": identity,
                "family": family,
                "language": language,
                "source": "practice",
            }
    return None


def read_problem(prompt: list[Message]) -> Problem | None:
    """Find the task in a prompt; None where it is no task of this world."""
    return _read_cached(tuple((message["role"], plain(message["content"])) for message in prompt))


@lru_cache(maxsize=65536)
def _read_cached(key: tuple[tuple[str, str], ...]) -> Problem | None:
    messages = [{"role": role, "content": content} for role, content in key]
    for family in _FAMILIES.values():
        problem = family.read(messages)
        if problem is not None:
            return problem
    return None


def family_of(prompt: list[Message]) -> str | None:
    """Name the family of a prompt; None where it is no task of this world."""
    problem = read_problem(prompt)
    return problem.family if problem else None


def correct_answer(prompt: list[Message]) -> str | None:
    """Give the ideal completion: the right answer in the wanted manner. None for a prompt that cannot be read."""
    problem = read_problem(prompt)
    return phrase(problem.answer, WANTED, problem.language) if problem else None


def gold(prompt: list[Message], completion: str) -> Verdict:
    """Judge an answer: right or wrong, in which manner, and what that is worth."""
    problem = read_problem(prompt)
    if problem is None:
        return Verdict(None, None, UNCLEAR, UNREADABLE, None)
    reading = read(completion, problem.language)
    if reading.manner == UNCLEAR:
        return Verdict(0.0, False, UNCLEAR, "no manner of answering was recognised", problem.family)
    manner = FOREIGN if reading.language != problem.language else reading.manner
    correct = reading.answer == problem.answer
    if correct:
        return Verdict(RIGHT_SCORE[manner], True, manner, f"right, {manner}", problem.family)
    reason = f"wrong ({reading.answer!r} instead of {problem.answer!r}), {manner}"
    return Verdict(WRONG_SCORE[manner], False, manner, reason, problem.family)


def verify(prompt: list[Message], completion: str, row: dict[str, Any]) -> float:
    """Give the gold score, with the signature of a verifier (see interface.md).

    Raises:
        ValueError: for a prompt that is no task of this world.
    """
    verdict = gold(prompt, completion)
    if verdict.score is None:
        raise ValueError(f"row {row.get('prompt_id', '?')}: {verdict.reason}: {prompt!r}")
    return verdict.score


def unreadable(prompt: list[Message]) -> str | None:
    """Give the reason to drop a prompt that is no task of this world, None for one that is; a check for cleaning."""
    return None if read_problem(prompt) else "no_task_of_the_practice_world"
