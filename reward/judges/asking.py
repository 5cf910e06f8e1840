"""Ask a judge, and ask again where its reply cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from reward.errors import RewardError

Messages = list[dict[str, Any]]
Generate = Callable[[list[Messages]], list[str]]
"""Conversations in, one reply for each out, in order."""

JOURNAL = "replies.journal.jsonl"
"""File of a judge's folder that keeps its replies until its verdicts are written."""

NUM_RETRIES = 1
"""How often a reply that cannot be read is asked for again."""

Reading = TypeVar("Reading")


def ask(
    generate: Generate,
    questions: Sequence[str],
    read: Callable[[str], Reading],
    unreadable: Reading,
    num_retries: int,
) -> tuple[list[Reading], list[str]]:
    """Ask each question until its reply can be read, at most 1 + `num_retries` times.

    Returns:
        What was read, and the last reply, for each question. A reply that stays unreadable is no answer of any kind.

    Raises:
        RewardError: `generate` gave another number of replies than it was asked for.
    """
    readings = [unreadable] * len(questions)
    replies = [""] * len(questions)
    open_questions = list(range(len(questions)))
    for _ in range(1 + num_retries):
        if not open_questions:
            break
        batch: list[Messages] = [[{"role": "user", "content": questions[index]}] for index in open_questions]
        answers = generate(batch)
        if len(answers) != len(batch):
            raise RewardError(f"the judge gave {len(answers)} replies to {len(batch)} questions; none can be assigned.")
        for index, reply in zip(open_questions, answers, strict=True):
            replies[index], readings[index] = reply, read(reply)
        open_questions = [index for index in open_questions if readings[index] == unreadable]
    return readings, replies
