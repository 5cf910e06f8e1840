"""Where a reward model reads its score: at a row's last token that is not the padding token.

That is what the sequence classifiers of transformers do, whatever token pads. Where the end of turn pads (SmolLM2 as it
is published), a score is read one token before it; a new reward model gets a padding token that ends no row.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from posttrain.core.chat import stop_ids
from posttrain.core.errors import ModelError
from posttrain.core.tokenizers import RESERVED_PADS


def pooled(ids: Sequence[int], pad_id: int | None) -> list[int]:
    """Cut a row after its last token that is not padding; what stands behind is not read, and nothing sees it."""
    end = len(ids)
    while end and ids[end - 1] == pad_id:
        end -= 1
    return list(ids[:end])


def give_own_pad(tokenizer: PreTrainedTokenizerBase, name: object) -> None:
    """Let a tokenizer pad with a token that ends no row, where it pads with one that does.

    Args:
        name: of the model, for the message.

    Raises:
        ModelError: it has no special token that would do.
    """
    ends = set(stop_ids(tokenizer))
    if tokenizer.pad_token_id not in ends:
        return
    vocabulary = tokenizer.get_vocab()
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    for token in (*RESERVED_PADS, tokenizer.unk_token, *reversed(special)):
        if token in vocabulary and vocabulary[token] not in ends:
            tokenizer.pad_token = token
            return
    raise ModelError(
        f"{name}: the tokenizer pads with {tokenizer.pad_token!r}, which ends a turn, and has no other special token "
        "to pad with; a reward model would read its scores before the end. Add a padding token to the folder."
    )
