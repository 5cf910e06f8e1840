"""A model run over a pack: no padding, and a prompt's keys and values computed once for its completions.

Attention falls into two parts: every segment sees itself causally (segments of like length side by side), and a
completion sees its whole prompt (all completions of a prompt at once). The parts are joined by their log-sum-exp, as
Hydragen does (Juravsky et al. 2024, arXiv:2402.05099, section 3.1). All else in a decoder works on one token at a time.

Shapes: T tokens of a pack, N segments, L tokens of a segment (padded), Q queries, H heads, G heads of keys and values,
D width of a head, W hidden width, R rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from posttrain.core.errors import ModelError
from posttrain.core.packing import Pack, Segment

__all__ = ["UnsupportedModel", "hidden_states", "last_hidden_states", "why_not_packed"]

_NAME = "posttrain_shared_prefix"
_LEAST_FILL = 0.8  # length of a bucket's shortest segment as a share of its longest
_MOST_LOGITS = 1 << 26  # logits held at once where attention is not fused: 256 MiB
_ROPE_BY_BATCH = ("dynamic", "longrope")  # their angles follow the longest row of a batch


class UnsupportedModel(ModelError):
    """Report a model that cannot be run over packs; padded batches serve it."""


@dataclass(frozen=True)
class _Layout:
    """Hold the places of a pack's segments on the model's device.

    Attributes:
        buckets: places of the tokens of segments of like length, (N, L) each; after a segment's end its last token.
        order_T: the row of the buckets' tokens, one bucket after the other, that holds each token.
        prefixes: (queries, keys) of each prompt, in the order of the pack.
    """

    buckets: list[Tensor]
    order_T: Tensor
    prefixes: list[tuple[slice, slice]]


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
    rope = getattr(config, "rope_parameters", None) or {}
    if any(kind in str(rope) for kind in _ROPE_BY_BATCH):
        return "its positions depend on the longest row of a batch"
    return None


def last_hidden_states(model: PreTrainedModel, pack: Pack) -> Tensor:
    """Give the last layer's hidden state at each row's last token, hidden_RW.

    The last layer is worked out at those tokens alone; its keys and values still come from all tokens.

    Args:
        model: a decoder with any head, in evaluation mode.

    Raises:
        UnsupportedModel: its attention is not what a pack can hold.
    """
    places_R = torch.tensor(pack.last_places, device=model.device)
    with _only_at(model, places_R):
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
        "shared_prefix": _layout(pack, device),
    }
    with _our_attention(model):
        hidden_TW: Tensor = model.base_model(**inputs).last_hidden_state[0]
    return hidden_TW


# ---------------------------------------------------------------- the layout


def _layout(pack: Pack, device: torch.device) -> _Layout:
    grouped: list[list[Segment]] = []
    for segment in sorted(pack.segments, key=lambda segment: -segment.length):
        # Padding costs arithmetic, a bucket of its own costs calls.
        if not grouped or segment.length < _LEAST_FILL * grouped[-1][0].length:
            grouped.append([])
        grouped[-1].append(segment)
    buckets, order, offset = [], [0] * len(pack.ids), 0
    for segments in grouped:
        width = segments[0].length
        places = []
        for segment in segments:
            stop = segment.start + segment.length
            order[segment.start : stop] = range(offset, offset + segment.length)
            places.append([*range(segment.start, stop), *[stop - 1] * (width - segment.length)])
            offset += width
        buckets.append(torch.tensor(places, device=device))
    return _Layout(buckets, torch.tensor(order, device=device), _prefixes(pack))


def _prefixes(pack: Pack) -> list[tuple[slice, slice]]:
    queries: dict[tuple[int, int], slice] = {}
    for segment in pack.segments:
        if segment.prefix is not None:
            start = queries[segment.prefix].start if segment.prefix in queries else segment.start
            queries[segment.prefix] = slice(start, segment.start + segment.length)
    return [(places, slice(start, start + length)) for (start, length), places in queries.items()]


# ---------------------------------------------------------------- attention


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    shared_prefix: _Layout | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend as the layout says; called by the layers of a model, with tensors of the shape (1, H, T, D)."""
    if shared_prefix is None:
        raise UnsupportedModel(f"{type(module).__name__} does not hand arguments down to its attention function")
    asked = [name for name in ("softcap", "s_aux", "position_bias") if others.get(name) is not None]
    if asked or dropout or attention_mask is not None or not getattr(module, "is_causal", True):
        what = ", ".join(asked) or "a mask, dropout or attention to later tokens"
        raise UnsupportedModel(f"{type(module).__name__} asks for {what}, which packs do not have")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query_THD, key_TGD, value_TGD = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    out_THD, weight_TH = _own(query_THD, key_TGD, value_TGD, shared_prefix, scale)
    parts, done = [], 0
    for queries, keys in shared_prefix.prefixes:
        seen, weight = _attend(query[:, :, queries], key[:, :, keys], value[:, :, keys], False, scale)
        seen_QHD, weight_QH = seen[0].transpose(0, 1), weight[0].transpose(0, 1)
        share_QH1 = torch.sigmoid(weight_QH - weight_TH[queries])[..., None].to(out_THD.dtype)
        parts += [out_THD[done : queries.start], torch.lerp(out_THD[queries], seen_QHD, share_QH1)]
        done = queries.stop
    return torch.cat([*parts, out_THD[done:]])[None], None


def _own(query_THD: Tensor, key_TGD: Tensor, value_TGD: Tensor, layout: _Layout, scale: float) -> tuple[Tensor, Tensor]:
    """Let each segment see itself; return out_THD and the log-sum-exp of its logits, weight_TH."""
    outs, weights = [], []
    for places_NL in layout.buckets:
        query_NHLD, key_NGLD, value_NGLD = (x[places_NL].transpose(1, 2) for x in (query_THD, key_TGD, value_TGD))
        out_NHLD, weight_NHL = _attend(query_NHLD, key_NGLD, value_NGLD, True, scale)
        outs.append(out_NHLD.transpose(1, 2).flatten(0, 1))
        weights.append(weight_NHL.transpose(1, 2).flatten(0, 1))
    return torch.cat(outs)[layout.order_T], torch.cat(weights)[layout.order_T]


def _attend(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Attend, and give the log-sum-exp of the logits in float32 too; (N, H, Q, D) and (N, H, Q)."""
    learns = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    # No gradient flows through the log-sum-exp of the fused function.
    if query.device.type == "cpu" and not learns and query.shape[-1] == value.shape[-1]:
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, weight = fused(query, key, value, 0.0, causal, scale=scale)
        return out, weight
    return _attend_plainly(query, key, value, causal, scale)


def _attend_plainly(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Attend by two matrix products and a softmax in float32: on any device, with gradients."""
    copies = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(copies, dim=1), value.repeat_interleave(copies, dim=1)
    step = max(1, _MOST_LOGITS // (query.shape[0] * query.shape[1] * key.shape[2]))
    outs, weights = [], []
    for start in range(0, query.shape[2], step):
        logits = (query[:, :, start : start + step] @ key.transpose(-1, -2)).float() * scale
        if causal:
            later = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(start + 1)
            logits = logits.masked_fill(later, -math.inf)
        weights.append(logits.logsumexp(dim=-1))
        outs.append((logits - weights[-1][..., None]).exp().to(value.dtype) @ value)
    return torch.cat(outs, dim=2), torch.cat(weights, dim=2)


AttentionInterface.register(_NAME, _attention)


@contextmanager
def _our_attention(model: PreTrainedModel) -> Iterator[None]:
    before = model.config._attn_implementation
    model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


# ---------------------------------------------------------------- the last layer


@contextmanager
def _only_at(model: PreTrainedModel, places_R: Tensor) -> Iterator[None]:
    """Run the token-wise parts of the last layer at some places alone; elsewhere its output is not to be used."""
    layers = getattr(model.base_model, "layers", None)
    last = layers[-1] if isinstance(layers, nn.ModuleList) else None
    attention, mlp = getattr(last, "self_attn", None), getattr(last, "mlp", None)
    dense = isinstance(getattr(mlp, "down_proj", None), nn.Linear)  # experts return more than hidden states
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
