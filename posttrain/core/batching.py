"""Batches by token budget, padding with explicit masks, and the log-probabilities of tokens.

Shapes: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Rows of logits that are held in float32 at once: 2^24 numbers are 64 MiB, whatever the vocabulary.
_MAX_LOGITS = 1 << 24


def token_budget_batches(lengths: Sequence[int], max_tokens: int, max_rows: int | None = None) -> list[list[int]]:
    """Group rows of like length so that rows × longest row stays within `max_tokens`.

    Args:
        lengths: tokens in each row.
        max_tokens: padded tokens in a batch; a row that is longer alone makes a batch alone.
        max_rows: at most that many rows in a batch, None for no limit.

    Returns:
        Indices into `lengths`, each once, longest rows first: a batch that does not fit in memory fails at once.
    """
    if max_tokens < 1 or (max_rows is not None and max_rows < 1):
        raise ValueError(f"max_tokens and max_rows must be at least 1, got {max_tokens} and {max_rows}")
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        full = bool(batches) and (
            (len(batches[-1]) + 1) * longest > max_tokens or (max_rows is not None and len(batches[-1]) >= max_rows)
        )
        if not batches or full:
            batches.append([])
            longest = lengths[index]
        batches[-1].append(index)
    return batches


def pad_left(ids_list: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Pad on the left, as generation wants it: `ids_BT` and `mask_BT` (1 = a token of the row), both int64."""
    return _pad(ids_list, pad_id, left=True)


def pad_right(ids_list: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Pad on the right, as training and scoring want it; the results are those of `pad_left`."""
    return _pad(ids_list, pad_id, left=False)


def _pad(ids_list: Sequence[Sequence[int]], pad_id: int, left: bool) -> tuple[Tensor, Tensor]:
    width = max((len(ids) for ids in ids_list), default=0)
    ids_BT = torch.full((len(ids_list), width), pad_id, dtype=torch.long)
    mask_BT = torch.zeros_like(ids_BT)
    for row, ids in enumerate(ids_list):
        if not ids:
            continue
        place = slice(width - len(ids), width) if left else slice(0, len(ids))
        ids_BT[row, place] = torch.tensor(ids, dtype=torch.long)
        mask_BT[row, place] = 1
    return ids_BT, mask_BT


def position_ids(mask_BT: Tensor) -> Tensor:
    """Count the tokens of each row from 0, padding left out, so that a row's numbers do not depend on its padding."""
    return (mask_BT.cumsum(dim=-1) - 1).clamp(min=0)


def token_logprobs(model: torch.nn.Module, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Give log p(token | tokens before it) in nats, float32, whatever the dtype of the model.

    The softmax runs in float32 over a part of the positions at a time, so that beside the model's own logits no second
    copy of them stands in memory; gradients flow where they are enabled.

    Args:
        model: a causal language model of transformers.
        ids_BT: token ids, padded on either side.
        mask_BT: 1 where `ids_BT` holds a token of the row.

    Returns:
        logprobs_BT: 0 at padding and at each row's first token, which nothing predicts.
    """
    output = model(
        input_ids=ids_BT, attention_mask=mask_BT, position_ids=position_ids(mask_BT), use_cache=False, return_dict=True
    )
    logprobs_BT = torch.zeros(ids_BT.shape, dtype=torch.float32, device=ids_BT.device)
    predicted_BT = torch.zeros_like(mask_BT, dtype=torch.bool)
    predicted_BT[:, 1:] = (mask_BT[:, 1:] * mask_BT[:, :-1]).bool()
    rows_N, places_N = predicted_BT.nonzero(as_tuple=True)
    step = max(1, _MAX_LOGITS // output.logits.shape[-1])
    parts = []
    for row_n, place_n in zip(rows_N.split(step), places_N.split(step), strict=True):
        logits_nV = output.logits[row_n, place_n - 1].float()
        picked_n = logits_nV.gather(1, ids_BT[row_n, place_n].unsqueeze(1)).squeeze(1)
        parts.append(picked_n - logits_nV.logsumexp(dim=-1))
    return logprobs_BT.masked_scatter(predicted_BT, torch.cat(parts)) if parts else logprobs_BT
