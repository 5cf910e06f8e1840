"""Completion rows as token ids for a reward model, and why some have none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from posttrain.core.chat import encode_example
from posttrain.core.errors import DataError
from posttrain.core.formats import normalize_prompt
from posttrain.core.pooling import pooled
from posttrain.core.row_keys import fault_of_row_keys, thought_of
from reward.ids import completion_text

Result = dict[str, Any]  # {"score": float} or {"score": None, "drop_reason": str}
Row = Mapping[str, Any]


class RowEncoder:
    """Encode COMPLETION rows, each once: a row that was encoded before is looked up.

    Args:
        tokenizer: the tokenizer the reward model was trained with.
        max_tokens: rows with more tokens are not scored; None is the model's context.
        date: the date that the chat template prints, where it prints one.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_tokens: int | None = None,
        date: str | None = None,
    ) -> None:
        limits = [limit for limit in (context_length(model), max_tokens) if limit is not None]
        self.limit = min(limits, default=None)
        self._pad_id = model.config.get_text_config().pad_token_id
        self._tokenizer = tokenizer
        self._date = date
        # By place in memory, where a row that is kept here stays.
        self._known: dict[int, tuple[Row, list[int] | str]] = {}

    def encode(self, rows: Sequence[Row]) -> tuple[dict[int, list[int]], list[tuple[int, Result]]]:
        """Return token ids by index into `rows`, and (index, result) of the rows that cannot be scored.

        The ids end where the score is read.
        """
        encoded: dict[int, list[int]] = {}
        unusable: list[tuple[int, Result]] = []
        for index, row in enumerate(rows):
            ids = self._ids(row)
            self._known[id(row)] = (row, ids)
            if isinstance(ids, str):
                unusable.append((index, {"score": None, "drop_reason": ids}))
            else:
                encoded[index] = ids
        return encoded, unusable

    def longest(self, rows: Iterable[Row]) -> int | None:
        """Return the tokens of the longest row that can be scored, None where none can; keeps no row."""
        return max((len(ids) for row in rows if not isinstance(ids := self._ids(row), str)), default=None)

    def _ids(self, row: Row) -> list[int] | str:
        """Return a row's token ids, or why it cannot be scored."""
        if id(row) in self._known:
            return self._known[id(row)][1]
        try:
            prompt = normalize_prompt(row.get("prompt"))
            fault = fault_of_row_keys(row, prompt, learned=False)
            if fault:
                return fault
            completion = [_answer(row.get("completion"))]
            # An empty answer is an answer, and a bad one; a score says so.
            ids = encode_example(
                self._tokenizer, prompt, completion, self._date, allow_empty=True, tools=row.get("tools")
            ).ids
        except DataError as error:
            return str(error)
        if self.limit is not None and len(ids) > self.limit:
            return f"too long: {len(ids)} tokens, the reward model reads {self.limit}"
        return pooled(ids, self._pad_id)


def context_length(model: PreTrainedModel) -> int | None:
    """Return the longest row in tokens that the model has positions for, None where its config does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def _answer(completion: Any) -> dict[str, Any]:
    """Return the answer as a message of its text, and of its thought where it has one."""
    message: dict[str, Any] = {"role": "assistant", "content": completion_text(completion)}
    thought = "" if isinstance(completion, str) else thought_of(completion[-1])
    return {**message, "reasoning_content": thought} if thought else message
