"""Forward passes that project only what a loss reads.

The output head is the largest matrix product of a small model and the largest tensor of a large one. A hook in front
of it keeps the hidden states of the wanted positions alone, so that the model's own code (soft caps, scales, adapters
on the head) still runs, on a fraction of the rows.

No attention mask is passed: rows are padded on the right, and under causal attention no token sees what stands to its
right. The model then takes its fast causal path and gives the same numbers.

Shapes: B rows, T positions, N wanted positions, H hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def output_head(model: Any) -> nn.Module:
    """Return the layer that turns hidden states into logits, through any wrapper of peft or torch."""
    return getattr(model, "module", model).get_output_embeddings()


def logits_at(model: nn.Module, head: nn.Module, ids_BT: Tensor, places_N: Tensor) -> Tensor:
    """Run the model and project only the wanted positions.

    Args:
        model: a causal language model, possibly wrapped for adapters or several processes.
        head: its output head, from `output_head`.
        ids_BT: token ids, padded on the right.
        places_N: flat indices b * T + t of the positions that predict something.

    Returns:
        logits_NV in the model's own dtype.
    """
    seen: list[bool] = []

    def keep(hidden_BTH: Tensor) -> Tensor:
        seen.append(True)
        return hidden_BTH.reshape(-1, hidden_BTH.shape[-1]).index_select(0, places_N).unsqueeze(0)

    with _before(head, keep):
        logits = model(input_ids=ids_BT, use_cache=False).logits
    if seen:
        return logits[0]
    # A model that multiplies by the head's weight without calling the head gives logits of every position.
    return logits.reshape(-1, logits.shape[-1]).index_select(0, places_N)


def scores_at(model: nn.Module, head: nn.Module, ids_BT: Tensor, last_B: Tensor) -> Tensor:
    """Run a reward model and read each row's score at its last token, with the head in float32.

    The classifiers of transformers look for the last token that is not the pad token, and so read one token too early
    where pad and end of turn are the same token; here the place comes from the row's length.

    Args:
        model: sequence classifier with one label, possibly wrapped.
        head: its layer `score`.
        ids_BT: token ids, padded on the right.
        last_B: index of the last token of each row.

    Returns:
        scores_B, float32.
    """
    hidden: list[Tensor] = []

    def remember(hidden_BTH: Tensor) -> Tensor:
        if not hidden:
            hidden.append(hidden_BTH)
        return hidden_BTH

    with _before(head, remember):
        model(input_ids=ids_BT, use_cache=False)
    hidden_BTH = hidden[0]
    rows_B = torch.arange(hidden_BTH.shape[0], device=hidden_BTH.device)
    with torch.autocast(device_type=hidden_BTH.device.type, enabled=False):
        return head(hidden_BTH[rows_B, last_B].float()).squeeze(-1)


@contextmanager
def _before(layer: nn.Module, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    handle = layer.register_forward_pre_hook(lambda _, inputs: (function(inputs[0]), *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()
