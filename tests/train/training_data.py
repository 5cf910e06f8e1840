"""Rows and folders that the tests of training share."""

from __future__ import annotations

import random

_TEXT = "the a of and list sort add larger first last word words red green blue cat dog bird fish tree house"
WORDS = _TEXT.split()


def say(role, content):
    return [{"role": role, "content": content}]


def completion_rows(count, seed=0, shortest=1, longest=9):
    """Rows of unequal lengths."""
    draw = random.Random(seed)
    return [
        {
            "prompt": say("user", " ".join(draw.choices(WORDS, k=draw.randint(2, 6)))),
            "completion": say("assistant", " ".join(draw.choices(WORDS, k=draw.randint(shortest, longest)))),
        }
        for _ in range(count)
    ]


def preference_rows(count, seed=0):
    """Pairs of unequal lengths, no two answers alike."""
    draw = random.Random(seed)
    rows = []
    for number, row in enumerate(completion_rows(count, seed)):
        answer = " ".join(draw.choices(WORDS, k=draw.randint(1, 9)))
        rejected = say("assistant", f"sorry {answer}")
        ids = {"prompt_id": f"p{number}"}
        rows.append({"prompt": row["prompt"], "chosen": row["completion"], "rejected": rejected, **ids})
    return rows


def copy_rows(count, seed=0):
    """Pairs that can be learned: the chosen answer says yes first, the rejected one no."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        text = " ".join(draw.choices(WORDS, k=4))
        rows.append(
            {
                "prompt": say("user", text),
                "chosen": say("assistant", f"yes {draw.choice(WORDS)}"),
                "rejected": say("assistant", f"no {draw.choice(WORDS)}"),
                "prompt_id": f"p{number}",
            }
        )
    return rows
