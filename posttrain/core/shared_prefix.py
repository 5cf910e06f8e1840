"""A model run over a pack: no padding, and a prompt's keys and values computed once for its completions.

All but attention works on one token at a time in a decoder; posttrain/core/segment_attention.py is the rest.

Shapes: T tokens of a pack, R rows, W hidden width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from posttrain.core.packed_linear import PackedLinear
from posttrain.core.packing import Pack
from posttrain.core.row_angles import follows_length
from posttrain.core.segment_attention import NAME, UnsupportedModel, layout

__all__ = ["UnsupportedModel", "hidden_states", "last_hidden_states", "only_at", "rounding_limit", "why_not_packed"]

# Allowed distance of two hidden states as a share of their length: at least 1e-4, else so many roundings a layer.
# Measured: 6e-7 in float32; 0.011 in bfloat16 with 8 layers, where 0.088 are allowed; 1.6 where a completion does not
# see its prompt.
_LEAST_TOLERANCE = 1e-4
_ROUNDINGS = 4


def why_not_packed(model: PreTrainedModel, num_tokens: int) -> str | None:
    """Say what in the model's configuration rules packs out, for rows of up to `num_tokens`; None where nothing does.

    What the configuration does not tell is left to a comparison with padded batches.
    """
    config = model.config.get_text_config()
    if not (getattr(model, "_supports_attention_backend", False) and model._can_set_attn_implementation()):
        return f"{type(model).__name__} takes no other attention function"
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if not kinds <= {"full_attention", "sliding_attention", "chunked_attention"}:
        return f"its layers are {', '.join(sorted(kinds))}"
    for name in ("sliding_window", "attention_chunk_size"):
        window = getattr(config, name, None)
        windowed = kinds != {"full_attention"} if getattr(config, "layer_types", None) else window is not None
        if windowed and isinstance(window, int) and window < num_tokens:
            return f"{name} is {window} and the longest row has {num_tokens} tokens"
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "it caps the logits of its attention"
    if follows_length(config):
        return "its positions depend on the length of a row"
    return None


def rounding_limit(model: PreTrainedModel, dtype: torch.dtype) -> float:
    """Give the largest distance of two hidden states, as a share of their length, that rounding explains.

    It adds up over layers as a random walk does.
    """
    num_layers = getattr(model.config.get_text_config(), "num_hidden_layers", 1)
    return max(_LEAST_TOLERANCE, _ROUNDINGS * torch.finfo(dtype).eps * math.sqrt(num_layers))


def last_hidden_states(model: PreTrainedModel, pack: Pack) -> Tensor:
    """Give the last layer's hidden state at each row's last token, hidden_RW.

    The last layer is worked out at those tokens alone; its keys and values still come from all tokens.

    Args:
        model: a decoder with any head, in evaluation mode.

    Raises:
        UnsupportedModel: its attention is not what a pack can hold.
    """
    places_R = torch.tensor(pack.last_places, device=model.device)
    with only_at(model, places_R):
        return hidden_states(model, pack)[places_R]


def hidden_states(model: PreTrainedModel, pack: Pack) -> Tensor:
    """Give the last layer's hidden state at each token of a pack, hidden_TW; gradients flow where they are enabled.

    Raises:
        UnsupportedModel: its attention is not what a pack can hold.
    """
    device = model.device
    inputs = {
        "input_ids": torch.tensor([pack.ids], device=device),
        "position_ids": torch.tensor([pack.positions], device=device),
        "use_cache": False,
        "shared_prefix": layout(pack, device),
    }
    with _our_attention(model):
        hidden_TW: Tensor = model.base_model(**inputs).last_hidden_state[0]
    return hidden_TW


@contextmanager
def _our_attention(model: PreTrainedModel) -> Iterator[None]:
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


# ---------------------------------------------------------------- the last layer


@contextmanager
def only_at(model: PreTrainedModel, places_R: Tensor) -> Iterator[None]:
    """Run the token-wise parts of the last layer at some places alone; elsewhere its output is not to be used."""
    layers = getattr(model.base_model, "layers", None)
    last = layers[-1] if isinstance(layers, nn.ModuleList) else None
    attention, mlp = getattr(last, "self_attn", None), getattr(last, "mlp", None)
    # Experts return more than hidden states.
    dense = isinstance(getattr(mlp, "down_proj", None), (nn.Linear, PackedLinear))
    with ExitStack() as stack:
        for part in (mlp if dense else None, getattr(attention, "q_proj", None), getattr(attention, "o_proj", None)):
            if isinstance(part, nn.Module):
                stack.enter_context(_part_only_at(part, places_R))
        yield


@contextmanager
def _part_only_at(part: nn.Module, places_R: Tensor) -> Iterator[None]:
    width = 0

    def narrow(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        nonlocal width
        width = inputs[0].shape[1]
        return (inputs[0][:, places_R], *inputs[1:])

    def widen(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
        wide = output.new_zeros(1, width, output.shape[-1])
        wide[:, places_R] = output
        return wide

    handles = [part.register_forward_pre_hook(narrow), part.register_forward_hook(widen)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
