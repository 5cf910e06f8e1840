"""Pairs of answers for people to compare, blind to which model wrote which.

`pairs.jsonl` goes out; `key.jsonl`, which says whose answer stands first, stays.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from posttrain.core.errors import DataError
from posttrain.core.files import content_hash
from posttrain.core.formats import normalize_prompt
from posttrain.evaluate.pairing import completion_text, pair_rows

Row = dict[str, Any]


def make_pairs(
    rows_a: Iterable[Row],
    rows_b: Iterable[Row],
    names: tuple[str, str],
    seed: int,
    num_samples: int = 1,
    num_pairs: int | None = None,
) -> tuple[list[Row], list[Row]]:
    """Pair the answers of A and B for labelling, in random order.

    A's answer stands first in every second pair (one more or less where their number is odd), drawn at random, so a
    labeller who always takes the first gives one half. The lines too are shuffled. Answers of the same text are not
    shown: nobody can prefer one, and they count as a tie.

    Args:
        rows_a: COMPLETION rows of A.
        rows_b: COMPLETION rows of B on the same prompts.
        names: what A and B are called, in the key alone.
        seed: of the order.
        num_samples: most samples per prompt; the first of A meets the first of B, and so on.
        num_pairs: most pairs, drawn at random; all when None.

    Returns:
        Rows to show, ``pair_id``, ``prompt``, ``first``, ``second``; and the key: ``pair_id``, ``prompt_id``, ``a``,
        ``b``, ``first`` (``a``, ``b``, or None for answers of the same text), sample indices, models, and the texts.

    Raises:
        DataError: as ``pairing.pair_rows``; or a row without a prompt.
    """
    key = [
        _key_row(prompt_id, sample_a, sample_b, names, seed)
        for prompt_id, samples_a, samples_b in pair_rows(rows_a, rows_b).prompts
        for sample_a, sample_b in list(zip(samples_a, samples_b, strict=False))[:num_samples]
    ]
    chance = random.Random(f"{seed}:pairs")
    chance.shuffle(key)
    key = key[:num_pairs]
    open_rows = [row for row in key if row["completion_a"] != row["completion_b"]]
    sides = (["a", "b"] * len(open_rows))[: len(open_rows)]
    chance.shuffle(sides)
    for row, side in zip(open_rows, sides, strict=True):
        row["first"] = side
    return [_shown_row(row) for row in open_rows], key


def _key_row(prompt_id: str, sample_a: Row, sample_b: Row, names: tuple[str, str], seed: int) -> Row:
    if sample_a.get("prompt") is None:
        raise DataError(f"prompt_id {prompt_id!r} of A has no prompt to show; give what `posttrain sample` wrote")
    indices = (sample_a.get("sample_index"), sample_b.get("sample_index"))
    return {
        "pair_id": content_hash(["pair", seed, prompt_id, *indices, *names]),
        "prompt_id": prompt_id,
        "a": names[0],
        "b": names[1],
        "first": None,
        "sample_index_a": indices[0],
        "sample_index_b": indices[1],
        "model_a": sample_a.get("model"),
        "model_b": sample_b.get("model"),
        "prompt": normalize_prompt(sample_a["prompt"]),
        "completion_a": completion_text(sample_a),
        "completion_b": completion_text(sample_b),
    }


def _shown_row(row: Row) -> Row:
    second = "b" if row["first"] == "a" else "a"
    return {
        "pair_id": row["pair_id"],
        "prompt": row["prompt"],
        "first": row[f"completion_{row['first']}"],
        "second": row[f"completion_{second}"],
    }
