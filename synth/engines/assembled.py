"""The way of models whose attention is not plain: each pass assembles whole keys and values, and the model attends.

Windows, caps and sinks then work as the model's own code has them, at the price of a copy per layer and step.

Shapes: N rows of a pass, G key-value heads, T columns: those of the prompts, then those of the slots; D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PretrainedConfig

from synth.engines.slots import SlotCache


class AssembledCache:
    """Stand in for a transformers cache in one step of one token per row.

    Args:
        owners_N: the prompt place of each row.
        prompt_span: columns of prompts that the pass sees.
        span: columns of slots that the pass sees.
    """

    # Read by the mask functions of transformers, which take our 4D mask as it is.
    is_sliding = (False,)
    is_compileable = False

    def __init__(
        self, cache: SlotCache, slots_N: Tensor, columns_N: Tensor, owners_N: Tensor, prompt_span: int, span: int
    ) -> None:
        self._cache = cache
        self._slots_N = slots_N
        self._columns_N = columns_N
        self._owners_N = owners_N
        self._prompt_span = prompt_span
        self._span = span

    def update(
        self, keys_NG1D: Tensor, values_NG1D: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Write this step's token of one layer and return the layer's keys and values; called by the model."""
        cache = self._cache
        cache.write(layer_idx, self._slots_N, self._columns_N, keys_NG1D[:, :, 0], values_NG1D[:, :, 0])
        keys_NGTD, values_NGTD = (
            torch.cat([prompts[self._owners_N, :, : self._prompt_span], own[self._slots_N, :, : self._span]], dim=2)
            for prompts, own in (
                (cache.prompt_keys_PGWD[layer_idx], cache.keys_SGCD[layer_idx]),
                (cache.prompt_values_PGWD[layer_idx], cache.values_SGCD[layer_idx]),
            )
        )
        return keys_NGTD, values_NGTD

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Give the number of columns before this step; called by the model."""
        return self._prompt_span + self._span - 1


def step_masks(
    config: PretrainedConfig, lengths_N: Tensor, columns_N: Tensor, prompt_span: int, span: int, dtype: torch.dtype
) -> Tensor | dict[str, Tensor]:
    """Let each row see its prompt and its own columns so far; layers with a window see the last of them only.

    Args:
        lengths_N: tokens of each row's prompt.
        columns_N: the column of its slot that each row writes now.

    Returns:
        An additive mask (N, 1, 1, T), or one per layer type for models that mix windowed and full attention.
    """
    prompt_NT = torch.arange(prompt_span, device=lengths_N.device).expand(len(lengths_N), -1)
    own_NT = torch.arange(span, device=lengths_N.device).expand(len(lengths_N), -1)
    hidden_NT = torch.cat([prompt_NT >= lengths_N[:, None], own_NT > columns_N[:, None]], dim=1)
    window = getattr(config, "sliding_window", None)
    layer_types = set(getattr(config, "layer_types", None) or ())
    if window is None or layer_types == {"full_attention"}:
        return _additive(hidden_NT, dtype)
    places_NT = torch.cat([prompt_NT, own_NT + lengths_N[:, None]], dim=1)
    windowed = _additive(hidden_NT | (places_NT <= (lengths_N + columns_N)[:, None] - window), dtype)
    if not layer_types:
        return windowed
    return {"full_attention": _additive(hidden_NT, dtype), "sliding_attention": windowed}


def _additive(hidden_NT: Tensor, dtype: torch.dtype) -> Tensor:
    mask_NT = torch.zeros(hidden_NT.shape, dtype=dtype, device=hidden_NT.device)
    return mask_NT.masked_fill_(hidden_NT, torch.finfo(dtype).min)[:, None, None, :]
