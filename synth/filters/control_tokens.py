"""Drop rows whose texts hold a control token of the model, which a template would make live."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from posttrain.core.chat import find_control_tokens
from synth.filters.partition import Dropped, Kept, partition
from synth.rows import Row, all_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def drop_control_tokens(rows: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase) -> tuple[Kept, Dropped]:
    """Drop rows in which a message or a tool call's argument spells a control token, in any role.

    Reason: `control_token`, with the tokens found behind the colon.
    """

    def reason(row: Row) -> str | None:
        found = sorted({token for text in all_texts(row) for token in find_control_tokens(text, tokenizer)})
        return f"control_token: {' '.join(found)}" if found else None

    return partition(rows, reason)
