"""Attention over a pack: every segment sees itself causally, and a completion sees its whole prompt.

Segments of like length go side by side, and all completions of a prompt meet its keys at once. The two parts are joined
by their log-sum-exp, as Hydragen does (Juravsky et al. 2024, arXiv:2402.05099, section 3.1).

Shapes: T tokens of a pack, N segments, L tokens of a segment (padded), Q queries, H heads, G heads of keys and values,
D width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from posttrain.core.attention import attend, join, unsupported
from posttrain.core.errors import ModelError
from posttrain.core.packing import Pack, Segment

__all__ = ["NAME", "Layout", "UnsupportedModel", "layout"]

NAME = "posttrain_shared_prefix"  # in AttentionInterface of transformers
_LEAST_FILL = 0.8  # length of a bucket's shortest segment as a share of its longest


class UnsupportedModel(ModelError):
    """Report a model that cannot be run over packs; padded batches serve it."""


@dataclass(frozen=True)
class Layout:
    """Hold the places of a pack's segments on the model's device.

    Attributes:
        buckets: places of the tokens of segments of like length, (N, L) each; after a segment's end its last token.
        order_T: the row of the buckets' tokens, one bucket after the other, that holds each token.
        prefixes: (queries, keys) of each prompt, in the order of the pack.
    """

    buckets: list[Tensor]
    order_T: Tensor
    prefixes: list[tuple[slice, slice]]


def layout(pack: Pack, device: torch.device) -> Layout:
    """Lay out the segments of a pack for the attention function, once for all layers."""
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
    return Layout(buckets, torch.tensor(order, device=device), _prefixes(pack))


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
    shared_prefix: Layout | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend as the layout says; called by the layers of a model, with tensors of the shape (1, H, T, D)."""
    if shared_prefix is None:
        raise UnsupportedModel(f"{type(module).__name__} does not hand arguments down to its attention function")
    asked = unsupported(others)
    if asked or dropout or attention_mask is not None or not getattr(module, "is_causal", True):
        what = ", ".join(asked) or "a mask, dropout or attention to later tokens"
        raise UnsupportedModel(f"{type(module).__name__} asks for {what}, which packs do not have")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query_THD, key_TGD, value_TGD = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    out_THD, weight_TH = _own(query_THD, key_TGD, value_TGD, shared_prefix, scale)
    parts, done = [], 0
    for queries, keys in shared_prefix.prefixes:
        seen, weight = attend(query[:, :, queries], key[:, :, keys], value[:, :, keys], scale)
        seen_QHD, weight_QH = seen[0].transpose(0, 1), weight[0].transpose(0, 1)
        joined_QHD = join(out_THD[queries], weight_TH[queries], seen_QHD, weight_QH)
        parts += [out_THD[done : queries.start], joined_QHD]
        done = queries.stop
    return torch.cat([*parts, out_THD[done:]])[None], None


def _own(query_THD: Tensor, key_TGD: Tensor, value_TGD: Tensor, layout: Layout, scale: float) -> tuple[Tensor, Tensor]:
    """Let each segment see itself; return out_THD and the log-sum-exp of its logits, weight_TH."""
    outs, weights = [], []
    for places_NL in layout.buckets:
        query_NHLD, key_NGLD, value_NGLD = (x[places_NL].transpose(1, 2) for x in (query_THD, key_TGD, value_TGD))
        out_NHLD, weight_NHL = attend(query_NHLD, key_NGLD, value_NGLD, scale, causal=True)
        outs.append(out_NHLD.transpose(1, 2).flatten(0, 1))
        weights.append(weight_NHL.transpose(1, 2).flatten(0, 1))
    return torch.cat(outs)[layout.order_T], torch.cat(weights)[layout.order_T]


AttentionInterface.register(NAME, _attention)
