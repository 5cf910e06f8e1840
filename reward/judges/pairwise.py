"""A judge that reads two answers in both orders and says which is better."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.core.formats import normalize_prompt
from reward.ids import Row, answer_text, with_ids
from reward.judges.asking import NUM_RETRIES, Generate, ask
from reward.judges.parse import Verdict, parse_verdict
from reward.judges.quoting import fill, quote, quote_prompt, read_template

TEMPLATE = Path(__file__).parent / "templates" / "pairwise.txt"
_OPENERS = ("thought process", "let's solve this problem step by step", "solution", "解", "かいせつ", "respuesta")
PLACES = ("prompt", "completion_a", "completion_b")
_UNREADABLE: Verdict = "UNREADABLE"
_SWAPPED: dict[Verdict, Verdict] = {"A": "B", "B": "A", "TIE": "TIE", "UNREADABLE": "UNREADABLE"}
_PREFERENCE: dict[Verdict, float | None] = {"A": 1.0, "B": 0.0, "TIE": 0.5, "UNREADABLE": None}


class PairwiseJudge:
    """Compare answers pair by pair, each pair in both orders (2306.05685 §3.4).

    Args:
        generate: gives the judge's replies to a batch of conversations.
        template: text file with `{prompt}`, `{completion_a}`, `{completion_b}` and, if wanted, `{mark}`.
        num_retries: how often an unreadable reply is asked for again.

    Raises:
        RewardError: the template cannot be used.
    """

    def __init__(self, generate: Generate, template: str | Path = TEMPLATE, num_retries: int = NUM_RETRIES) -> None:
        self.generate = generate
        self.template = read_template(template, PLACES)
        self.num_retries = num_retries

    def compare(self, pairs: Sequence[Mapping[str, Any]]) -> list[Row]:
        """Judge rows of `prompt`, `completion_a`, `completion_b`; their thoughts are not shown.

        Returns:
            The rows' other columns, in order, with `verdict`: A or B where both orders agree; TIE where they do not
            (`flipped`) or both say so; UNREADABLE where one order gave nothing readable. `preference` is 1, 0, 0.5 or
            None. `votes` and `replies` hold both orders, told for A and B as given; `length_a` and `length_b` are
            characters; `flags` names answers that say nothing (`hollow_a`, `hollow_b`), by which judges are fooled.
        """
        questions = [self._question(pair, swap) for pair in pairs for swap in (False, True)]
        votes, replies = ask(self.generate, questions, parse_verdict, _UNREADABLE, self.num_retries)
        verdicts = []
        for place, pair in enumerate(pairs):
            first, second = votes[2 * place], _SWAPPED[votes[2 * place + 1]]
            verdict = combine(first, second)
            texts = [answer_text(pair[name]) for name in ("completion_a", "completion_b")]
            verdicts.append(
                {
                    **{key: value for key, value in pair.items() if key not in PLACES},
                    "verdict": verdict,
                    "preference": _PREFERENCE[verdict],
                    "flipped": verdict != "UNREADABLE" and first != second,
                    "votes": [first, second],
                    "replies": replies[2 * place : 2 * place + 2],
                    "length_a": len(texts[0]),
                    "length_b": len(texts[1]),
                    "flags": [f"hollow_{side}" for side, text in zip("ab", texts, strict=True) if is_hollow(text)],
                }
            )
        return verdicts

    def _question(self, pair: Mapping[str, Any], swap: bool) -> str:
        texts = [quote(answer_text(pair[name])) for name in ("completion_a", "completion_b")]
        first, second = reversed(texts) if swap else texts
        prompt = quote_prompt(normalize_prompt(pair["prompt"]), pair.get("tools"))
        return fill(self.template, {"prompt": prompt, "completion_a": first, "completion_b": second})


def is_hollow(text: str) -> bool:
    """Tell whether an answer has no word or number, or only the opening of one (the "master keys" of 2507.08794)."""
    words = text.strip().strip(".:").casefold()
    return words in _OPENERS or not any(character.isalnum() for character in words)


def combine(first: Verdict, second: Verdict) -> Verdict:
    """Combine the verdicts of both orders, both told for the same A and B."""
    if "UNREADABLE" in (first, second):
        return "UNREADABLE"
    return first if first == second else "TIE"


def pair_rows(rows_a: Iterable[Mapping[str, Any]], rows_b: Iterable[Mapping[str, Any]]) -> tuple[list[Row], list[str]]:
    """Pair COMPLETION rows of A and B by `prompt_id`, the samples of a prompt in order of `sample_index`.

    Returns:
        Rows for `PairwiseJudge.compare`, with `prompt_id`, `sample_index_a`, `sample_index_b`; and the ids of prompts
        that only one side answered.
    """
    sides = []
    for rows in (rows_a, rows_b):
        by_prompt: dict[str, list[Row]] = defaultdict(list)
        for row in with_ids(rows)[0]:
            by_prompt[row["prompt_id"]].append(row)
        sides.append(by_prompt)
    a, b = sides
    pairs = []
    for prompt_id in a:
        samples = [sorted(side.get(prompt_id, []), key=lambda row: row["sample_index"]) for side in sides]
        for row_a, row_b in zip(*samples, strict=False):
            pairs.append(
                {
                    "prompt_id": prompt_id,
                    "sample_index_a": row_a["sample_index"],
                    "sample_index_b": row_b["sample_index"],
                    "prompt": row_a["prompt"],
                    **({"tools": row_a["tools"]} if row_a.get("tools") else {}),
                    "completion_a": row_a["completion"],
                    "completion_b": row_b["completion"],
                }
            )
    return pairs, [prompt_id for prompt_id in [*a, *b] if (prompt_id in a) != (prompt_id in b)]
