"""Attention masks of a decoding step in which every row has its own length.

Shapes: N rows, T columns of the cache.
"""

from __future__ import annotations

import torch
from transformers import PretrainedConfig

from posttrain.core.errors import ModelError

_KNOWN_LAYERS = {"full_attention", "sliding_attention"}


def require_known_layers(config: PretrainedConfig) -> None:
    """Refuse models whose layers keep a state that is no list of keys and values.

    Raises:
        ModelError: a layer type that slots cannot hold (Mamba, linear or chunked attention, …).
    """
    unknown = set(getattr(config, "layer_types", None) or ()) - _KNOWN_LAYERS
    if unknown:
        raise ModelError(
            f"model type {config.model_type!r} has layers of type {', '.join(sorted(unknown))}, which the "
            "'transformers' engine cannot sample from - serve the model and use the 'openai' engine, or use 'vllm'"
        )


def step_masks(
    config: PretrainedConfig, positions_N: torch.Tensor, span: int, dtype: torch.dtype
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Let each row see the columns up to its own position; layers with a window see the last of them only.

    Returns:
        An additive mask (N, 1, 1, T), or one per layer type for models that mix windowed and full attention.
    """
    columns_T = torch.arange(span, device=positions_N.device)
    future_NT = columns_T > positions_N[:, None]
    window = getattr(config, "sliding_window", None)
    layer_types = set(getattr(config, "layer_types", None) or ())
    if window is None or layer_types == {"full_attention"}:
        return _additive(future_NT, dtype)
    windowed = _additive(future_NT | (columns_T <= positions_N[:, None] - window), dtype)
    if not layer_types:
        return windowed
    return {"full_attention": _additive(future_NT, dtype), "sliding_attention": windowed}


def _additive(hidden_NT: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    mask_NT = torch.zeros(hidden_NT.shape, dtype=dtype, device=hidden_NT.device)
    return mask_NT.masked_fill_(hidden_NT, torch.finfo(dtype).min)[:, None, None, :]
