"""A judge that rates one answer at a time on a scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from posttrain.core.formats import normalize_prompt
from reward.ids import Row, answer_text
from reward.judges.asking import NUM_RETRIES, Generate, ask
from reward.judges.parse import parse_rating
from reward.judges.quoting import fill, quote, quote_prompt, read_template
from reward.judges.scale import HIGHEST, LOWEST

TEMPLATE = Path(__file__).parent / "templates" / "rubric.txt"
PLACES = ("prompt", "completion")


class RubricJudge:
    """Rate answers from `low` to `high` by a rubric.

    Args:
        generate: gives the judge's replies to a batch of conversations.
        template: text file with `{prompt}` and `{completion}`; may also name `{low}`, `{high}`, `{mark}`.
        low: lowest rating.
        high: highest rating.
        num_retries: how often an unreadable reply is asked for again.

    Raises:
        RewardError: the template cannot be used.
    """

    def __init__(
        self,
        generate: Generate,
        template: str | Path = TEMPLATE,
        low: int = LOWEST,
        high: int = HIGHEST,
        num_retries: int = NUM_RETRIES,
    ) -> None:
        self.generate = generate
        self.template = read_template(template, PLACES)
        self.low = low
        self.high = high
        self.num_retries = num_retries

    def rate(self, rows: Iterable[Mapping[str, Any]]) -> list[Row]:
        """Add `score` and the judge's whole `reply` to COMPLETION rows; their thoughts are not shown.

        A reply without a rating inside the scale gives `score` None and `error`; it is never given a number.
        """
        rated = [{key: value for key, value in row.items() if key not in ("score", "error")} for row in rows]
        questions = [self._question(row) for row in rated]
        read = partial(parse_rating, low=self.low, high=self.high)
        ratings, replies = ask(self.generate, questions, read, None, self.num_retries)
        for row, rating, reply in zip(rated, ratings, replies, strict=True):
            row.update(score=rating, reply=reply)
            if rating is None:
                row["error"] = f"unreadable: no rating from {self.low} to {self.high} on the reply's last line"
        return rated

    def _question(self, row: Mapping[str, Any]) -> str:
        values = {
            "prompt": quote_prompt(normalize_prompt(row["prompt"]), row.get("tools")),
            "completion": quote(answer_text(row["completion"])),
            "low": str(self.low),
            "high": str(self.high),
        }
        return fill(self.template, values)
