"""Keep rows whose prompt or completion has a fitting length, in words or in tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from synth.filters.partition import Dropped, Kept, partition
from synth.rows import Message, Row, answer_text, completion_text, prompt_messages, prompt_text
from synth.words import words

Part = Literal["prompt", "completion"]


def keep_word_count(
    rows: Iterable[Mapping[str, Any]], min_words: int, max_words: int, part: Part = "prompt"
) -> tuple[Kept, Dropped]:
    """Keep rows with `min_words` to `max_words` words, both included.

    Characters count as words in scripts without spaces. A prompt's system message and thoughts do not count. Reasons:
    `empty`, `too_short` and `too_long` (with the count behind a colon).
    """
    text_of = prompt_text if part == "prompt" else answer_text
    return partition(rows, lambda row: _reason(text_of(row), len(words(text_of(row))), min_words, max_words))


def keep_token_count(
    rows: Iterable[Mapping[str, Any]],
    count_tokens: Callable[[Sequence[Message]], int],
    min_tokens: int,
    max_tokens: int,
    part: Part = "prompt",
) -> tuple[Kept, Dropped]:
    """Keep rows with `min_tokens` to `max_tokens` tokens, both included.

    Args:
        count_tokens: gives the number of tokens of a list of messages, for example
            `lambda messages: len(encode_prompt(tokenizer, messages))`; the template's own tokens count if it says so.
        part: the prompt with its system message, or the completion; an empty one is dropped before it is counted.
    """

    def reason(row: Row) -> str | None:
        text = prompt_text(row) if part == "prompt" else completion_text(row)
        if not text.strip():
            return "empty"
        return _reason(text, count_tokens(_messages(row, part)), min_tokens, max_tokens)

    return partition(rows, reason)


def _messages(row: Row, part: Part) -> Sequence[Message]:
    if part == "prompt":
        return prompt_messages(row)
    completion = row["completion"]
    return [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion


def _reason(text: str, length: int, low: int, high: int) -> str | None:
    if not text.strip():
        return "empty"
    if length < low:
        return f"too_short: {length} < {low}"
    if length > high:
        return f"too_long: {length} > {high}"
    return None
