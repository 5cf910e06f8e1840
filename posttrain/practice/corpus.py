"""Pretraining text of the practice world: questions, mixed answers to them, and marks that say how good they were."""

from __future__ import annotations

import random
from dataclasses import dataclass

from posttrain.practice.tasks.family import Message, Problem
from posttrain.practice.tasks.lexicon import LANGUAGES, all_words
from posttrain.practice.tasks.manners import MANNERS, RIGHT_SCORE, WRONG_SCORE, phrase
from posttrain.practice.tokenizer import BEGIN, END, MARKS, ROLE_TOKENS, build_tokenizer, self_instruct_template
from posttrain.practice.world import FAMILIES, draw_training_prompt, read_problem

GOOD_FROM, FAIR_FROM = 0.9, 0.2
MAX_SHOWN = 3

#: How much a token counts in the loss. Most words of a prompt are drawn by chance, so there is little to learn from
#: them; a mark is a single token, and a reward model will need what it teaches.
PROMPT_WEIGHT, ANSWER_WEIGHT, MARK_WEIGHT = 0.05, 1.0, 2.0

#: families that take longest to learn come up more often than the others
HARD_FAMILIES: tuple[str, ...] = (
    *("without", "go_on", "add_one", "sort", "opposite", "contains", "position", "count", "reverse"),
    *("go_on", "add_one", "largest"),
)


MISTAKES: tuple[str, ...] = ("stray", "one too many", "one too few", "exchange", "shuffle")
MISTAKE_SHARES: tuple[float, ...] = (0.45, 0.2, 0.1, 0.15, 0.1)
_CONTENT_WORDS: tuple[str, ...] = tuple(sorted(all_words()))


@dataclass(frozen=True)
class Mix:
    """Say what the text is made of; all shares are in [0, 1].

    Attributes:
        wrong_share: answers that are wrong.
        wanted_share: answers in the wanted manner.
        bare_share: answers in no manner at all; the other three share the rest equally.
        mark_share: answers followed by a mark of their quality (see `mark`).
        self_instruct_share: texts that show some tasks and go on with a new one.
        imitate_wrong: whether wrong answers count in the loss; where not, only the marks after them do.
    """

    wrong_share: float = 0.4
    wanted_share: float = 0.2
    bare_share: float = 0.2
    mark_share: float = 0.7
    self_instruct_share: float = 0.05
    imitate_wrong: bool = True


@dataclass(frozen=True)
class Text:
    """Hold a text as token ids, and how much each token counts in the loss."""

    ids: list[int]
    weights: list[float]


def documents(num_documents: int, seed: int, mix: Mix) -> list[Text]:
    """Write texts as token ids, beginning and end-of-turn tokens included."""
    ids = build_tokenizer().get_vocab()
    rng = random.Random(f"corpus {seed}")
    texts = []
    for _ in range(num_documents):
        pieces = document(rng, mix)
        words = [(ids[word], weight) for text, weight in pieces for word in text.split()]
        texts.append(Text([word for word, _ in words], [weight for _, weight in words]))
    return texts


def document(rng: random.Random, mix: Mix) -> list[tuple[str, float]]:
    """Write one text, in pieces with their weights in the loss.

    It is a conversation with an answer that may be wrong, in some manner, perhaps with a mark; or a list of tasks
    that goes on with a new one.
    """
    if rng.random() < mix.self_instruct_share:
        return _self_instruct_document(rng)
    prompt = draw_training_prompt(rng.choice((*FAMILIES, *HARD_FAMILIES)), rng, rng.choice(LANGUAGES))
    problem = read_problem(prompt)
    if problem is None:
        raise ValueError(f"a family drew a prompt that it cannot read back: {prompt!r}")
    wrong = rng.random() < mix.wrong_share
    manner = _draw_manner(rng, mix)
    answer = wrong_answer(problem, rng) if wrong else problem.answer
    answer_weight = 0.0 if wrong and not mix.imitate_wrong else ANSWER_WEIGHT
    pieces = [
        (f"{conversation(prompt)} {ROLE_TOKENS['assistant']}", PROMPT_WEIGHT),
        (f"{phrase(answer, manner, problem.language)} {END}", answer_weight),
    ]
    if rng.random() < mix.mark_share:
        pieces.append((mark((WRONG_SCORE if wrong else RIGHT_SCORE)[manner]), MARK_WEIGHT))
    return pieces


def _draw_manner(rng: random.Random, mix: Mix) -> str:
    rest = (1 - mix.wanted_share - mix.bare_share) / (len(MANNERS) - 2)
    return rng.choices(MANNERS, (mix.wanted_share, mix.bare_share, *[rest] * (len(MANNERS) - 2)))[0]


def conversation(messages: list[Message]) -> str:
    """Write messages as the chat template does, with blanks between all tokens."""
    turns = (f"{ROLE_TOKENS[message['role']]} {message['content']} {END}" for message in messages)
    return f"{BEGIN} {' '.join(turns)}"


def mark(score: float) -> str:
    """Give the mark of an answer with this gold score: good, fair or poor."""
    good, fair, poor = MARKS
    return good if score >= GOOD_FROM else fair if score >= FAIR_FROM else poor


def wrong_answer(problem: Problem, rng: random.Random) -> str:
    """Make a wrong answer: mostly one that a look at its words gives away, sometimes a plausible one.

    A tiny reward model has no depth to solve a task again and compare, but it can see a word that does not belong or
    one too many; so most mistakes are of that kind, and a quarter are not.
    """
    right = problem.answer.split()
    while True:
        words = list(right)
        way = rng.choices(MISTAKES, MISTAKE_SHARES)[0]
        place = rng.randrange(len(words))
        if way == "stray":
            words[place] = rng.choice(_CONTENT_WORDS)
        elif way == "one too many":
            words.insert(place, rng.choice(words + list(problem.distractors)))
        elif way == "one too few" and len(words) > 1:
            del words[place]
        elif way == "exchange":
            words[place] = rng.choice(problem.distractors)
        elif way == "shuffle" and len(words) > 1:
            rng.shuffle(words)
        if words != right:
            return " ".join(words)


def _self_instruct_document(rng: random.Random) -> list[tuple[str, float]]:
    language = rng.choice(LANGUAGES)
    tasks = [_one_turn_task(rng, language) for _ in range(rng.randint(2, MAX_SHOWN) + 1)]
    shown = " ".join(f"{number}. {task}" for number, task in enumerate(tasks[:-1], start=1))
    asked = " ".join(self_instruct_template().format(demonstrations=shown).split())
    prompt = conversation([{"role": "user", "content": asked}])
    return [(f"{prompt} {ROLE_TOKENS['assistant']}", PROMPT_WEIGHT), (f"{tasks[-1]} {END}", ANSWER_WEIGHT)]


def _one_turn_task(rng: random.Random, language: str) -> str:
    while True:
        prompt = draw_training_prompt(rng.choice(FAMILIES), rng, language)
        if len(prompt) == 1:
            return prompt[0]["content"]
