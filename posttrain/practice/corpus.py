"""Pretraining text of the practice world: questions, mixed answers to them, and marks that say how good they were."""

from __future__ import annotations

import random
from dataclasses import dataclass

from posttrain.practice.tasks.family import Message, Problem
from posttrain.practice.tasks.lexicon import LANGUAGES
from posttrain.practice.tasks.manners import MANNERS, RIGHT_SCORE, WRONG_SCORE, phrase
from posttrain.practice.tokenizer import BEGIN, END, MARKS, ROLE_TOKENS, build_tokenizer, self_instruct_template
from posttrain.practice.world import FAMILIES, draw_prompt, read_problem

GOOD_FROM, FAIR_FROM = 0.9, 0.2
MAX_SHOWN = 3


@dataclass(frozen=True)
class Mix:
    """Say what the text is made of; all shares are in [0, 1].

    Attributes:
        wrong_share: answers that are wrong.
        wanted_share: answers in the wanted manner; the other four manners share the rest equally.
        mark_share: answers followed by a mark of their quality (see `mark`).
        self_instruct_share: texts that show some tasks and go on with a new one.
    """

    wrong_share: float = 0.4
    wanted_share: float = 0.2
    mark_share: float = 0.7
    self_instruct_share: float = 0.05


def documents(num_documents: int, seed: int, mix: Mix) -> list[list[int]]:
    """Write texts as token ids, beginning and end-of-turn tokens included."""
    ids = build_tokenizer().get_vocab()
    rng = random.Random(f"corpus {seed}")
    return [[ids[word] for word in document(rng, mix).split()] for _ in range(num_documents)]


def document(rng: random.Random, mix: Mix) -> str:
    """Write one text: a conversation with an answer that may be wrong, in some manner, perhaps with a mark."""
    if rng.random() < mix.self_instruct_share:
        return _self_instruct_document(rng)
    language = rng.choice(LANGUAGES)
    prompt = draw_prompt(rng.choice(FAMILIES), rng, language)
    problem = read_problem(prompt)
    if problem is None:
        raise ValueError(f"a family drew a prompt that it cannot read back: {prompt!r}")
    wrong = rng.random() < mix.wrong_share
    manner = MANNERS[0] if rng.random() < mix.wanted_share else rng.choice(MANNERS[1:])
    answer = wrong_answer(problem, rng) if wrong else problem.answer
    text = conversation([*prompt, {"role": "assistant", "content": phrase(answer, manner, problem.language)}])
    if rng.random() < mix.mark_share:
        text += " " + mark((WRONG_SCORE if wrong else RIGHT_SCORE)[manner])
    return text


def conversation(messages: list[Message]) -> str:
    """Write messages as the chat template does, with blanks between all tokens."""
    turns = (f"{ROLE_TOKENS[message['role']]} {message['content']} {END}" for message in messages)
    return f"{BEGIN} {' '.join(turns)}"


def mark(score: float) -> str:
    """Give the mark of an answer with this gold score: good, fair or poor."""
    good, fair, poor = MARKS
    return good if score >= GOOD_FROM else fair if score >= FAIR_FROM else poor


def wrong_answer(problem: Problem, rng: random.Random) -> str:
    """Make a wrong answer such as a careless person gives: a word exchanged, left out, or in the wrong place."""
    right = problem.answer.split()
    while True:
        words = list(right)
        way = rng.choice(("exchange", "exchange", "leave out", "shuffle"))
        if way == "exchange":
            words[rng.randrange(len(words))] = rng.choice(problem.distractors)
        elif way == "leave out" and len(words) > 1:
            del words[rng.randrange(len(words))]
        elif way == "shuffle" and len(words) > 1:
            rng.shuffle(words)
        if words != right:
            return " ".join(words)


def _self_instruct_document(rng: random.Random) -> str:
    language = rng.choice(LANGUAGES)
    tasks = [_one_turn_task(rng, language) for _ in range(rng.randint(2, MAX_SHOWN) + 1)]
    shown = " ".join(f"{number}. {task}" for number, task in enumerate(tasks[:-1], start=1))
    asked = " ".join(self_instruct_template().format(demonstrations=shown).split())
    return conversation([{"role": "user", "content": asked}, {"role": "assistant", "content": tasks[-1]}])


def _one_turn_task(rng: random.Random, language: str) -> str:
    while True:
        prompt = draw_prompt(rng.choice(FAMILIES), rng, language)
        if len(prompt) == 1:
            return prompt[0]["content"]
