"""Rows through a reward model: in packs that share prompts, or in padded batches, to the score at each last token.

Shapes: B rows, T positions, W hidden width.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from posttrain.core.batching import pad_right, position_ids, token_budget_batches
from posttrain.core.packing import shared_prefix_packs
from posttrain.core.row_angles import follows_length
from posttrain.core.shared_prefix import last_hidden_states

Ids = Sequence[int]


def packed_hidden(
    model: PreTrainedModel, ids_list: Sequence[Ids], groups: Sequence[Hashable], max_tokens: int
) -> Iterator[tuple[list[int], Tensor]]:
    """Give each row's hidden state at its last token, pack by pack: (indices into `ids_list`, hidden_BW)."""
    for pack in shared_prefix_packs(ids_list, groups, max_tokens):
        with torch.inference_mode():
            hidden_BW = last_hidden_states(model, pack)
        yield pack.rows, hidden_BW


def padded_hidden(
    model: PreTrainedModel, ids_list: Sequence[Ids], max_tokens: int
) -> Iterator[tuple[list[int], Tensor]]:
    """Give the same, batch by batch, as the model computes it on padded rows: the reference for packs."""
    for batch in token_budget_batches([len(ids) for ids in ids_list], max_tokens):
        yield batch, last_token_hidden(model, [ids_list[index] for index in batch])


@torch.inference_mode()
def last_token_hidden(model: PreTrainedModel, ids_list: Sequence[Ids]) -> Tensor:
    """Run one padded batch and give the hidden state at each row's last token, hidden_BW.

    The place is the row's length: the encoder has cut rows where the model's class reads them. Padding stands on the
    right, where no real token sees it, so its id does not matter.
    """
    ids_BT, mask_BT = pad_right(ids_list, pad_id=0)
    ids_BT, mask_BT = ids_BT.to(model.device), mask_BT.to(model.device)
    inputs = {"input_ids": ids_BT, "attention_mask": mask_BT}
    if follows_length(model.config):
        inputs["position_ids"] = position_ids(mask_BT)
    hidden_BTW = model.base_model(**inputs, use_cache=False).last_hidden_state
    hidden_BW: Tensor = hidden_BTW[torch.arange(len(ids_list), device=model.device), mask_BT.sum(dim=1) - 1]
    return hidden_BW


@torch.inference_mode()
def last_token_scores(model: PreTrainedModel, head: nn.Module, ids_list: Sequence[Ids]) -> list[float]:
    """Score one padded batch."""
    return head_scores(head, last_token_hidden(model, ids_list))


@torch.inference_mode()
def head_scores(head: nn.Module, hidden_BW: Tensor) -> list[float]:
    """Give a score per row.

    The head runs in float32 even over a bfloat16 body, because scores rounded to bfloat16 collapse into ties.
    """
    return apply_head(head, hidden_BW).tolist()


def apply_head(head: nn.Module, hidden_BW: Tensor) -> Tensor:
    """Multiply in float32, whatever the dtype of the head and of the hidden states; a score per row."""
    assert isinstance(head.weight, Tensor)
    bias_1 = getattr(head, "bias", None)
    bias_1 = bias_1.float() if isinstance(bias_1, Tensor) else None
    with torch.autocast(hidden_BW.device.type, enabled=False):
        return nn.functional.linear(hidden_BW.float(), head.weight.float(), bias_1)[:, 0]
