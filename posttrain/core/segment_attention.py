"""Attention over a pack: every segment sees itself causally, and a completion sees its whole prompt.

Segments of like length go side by side, and all completions of a prompt meet its keys at once. The two parts are joined
by their log-sum-exp, as Hydragen does (Juravsky et al. 2024, arXiv:2402.05099, section 3.1).

Shapes: T tokens of a pack, S of them that see a prompt, N runs of a bucket, Q queries and K keys of a run (padded),
H heads, G heads of keys and values, D width of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from posttrain.core.attention import attend, join
from posttrain.core.errors import ModelError
from posttrain.core.packing import Pack

__all__ = ["NAME", "Layout", "UnsupportedModel", "layout"]

NAME = "posttrain_shared_prefix"  # in AttentionInterface of transformers
# Padding costs arithmetic, a bucket of its own costs calls: so large a share of a bucket's logits may be padding, or so
# many of them whatever the share (a layer's calls take as long as about this many logits).
_MOST_PADDING = 0.3
_FREE_PADDING = 1 << 14


class UnsupportedModel(ModelError):
    """Report a model that cannot be run over packs; padded batches serve it."""


@dataclass(frozen=True)
class Bucket:
    """Hold the places of runs of like size, side by side; N runs, Q queries and K keys in the longest.

    Attributes:
        queries_NQ: after a run's end its last query.
        keys_NK: likewise.
        mask_N11K: 0, and minus infinity at keys after a run's end; None where all have K keys.
    """

    queries_NQ: Tensor
    keys_NK: Tensor
    mask_N11K: Tensor | None


@dataclass(frozen=True)
class Layout:
    """Hold the places of a pack's segments on the model's device.

    Attributes:
        own: segments, which see themselves causally.
        own_order_T: the row of the queries of `own`, one bucket after the other, that holds each token.
        prefixes: all queries that see a prompt, and the prompts.
        prefix_order_S: the row of the queries of `prefixes` that holds each of the S tokens that see a prompt.
        seeing_S: the places of these tokens.
        plainly: see `attend`.
    """

    own: list[Bucket]
    own_order_T: Tensor
    prefixes: list[Bucket]
    prefix_order_S: Tensor
    seeing_S: Tensor
    plainly: bool = False


Run = tuple[range, range]  # the places of queries, and of the keys that they see


def layout(pack: Pack, device: torch.device, plainly: bool = False) -> Layout:
    """Lay out the segments of a pack for the attention function, once for all layers."""
    own = [range(segment.start, segment.start + segment.length) for segment in pack.segments]
    own_buckets, own_order = _buckets([(places, places) for places in own], device)
    prefixes = _prefixes(pack)
    prefix_buckets, prefix_order = _buckets(prefixes, device)
    seeing = [place for queries, _ in prefixes for place in queries]
    return Layout(
        own_buckets,
        torch.tensor([own_order[place] for place in range(len(pack.ids))], device=device),
        prefix_buckets,
        torch.tensor([prefix_order[place] for place in seeing], device=device, dtype=torch.long),
        torch.tensor(seeing, device=device, dtype=torch.long),
        plainly,
    )


def _prefixes(pack: Pack) -> list[Run]:
    queries: dict[tuple[int, int], range] = {}
    for segment in pack.segments:
        if segment.prefix is not None:
            start = queries[segment.prefix].start if segment.prefix in queries else segment.start
            queries[segment.prefix] = range(start, segment.start + segment.length)
    return [(places, range(start, start + length)) for (start, length), places in queries.items()]


def _buckets(runs: list[Run], device: torch.device) -> tuple[list[Bucket], dict[int, int]]:
    """Put runs of like size together, and say in which row of all buckets' queries each query's place stands."""
    grouped: list[list[Run]] = []
    used = most_queries = most_keys = 0
    for run in sorted(runs, key=lambda run: (-len(run[1]), -len(run[0]))):
        size = len(run[0]) * len(run[1])
        count = len(grouped[-1]) + 1 if grouped else 1
        room = count * max(most_queries, len(run[0])) * max(most_keys, len(run[1]))
        padding = room - used - size
        if not grouped or padding > max(_MOST_PADDING * room, _FREE_PADDING):
            grouped.append([])
            used = most_queries = most_keys = 0
        grouped[-1].append(run)
        used += size
        most_queries, most_keys = max(most_queries, len(run[0])), max(most_keys, len(run[1]))
    order: dict[int, int] = {}
    buckets, row = [], 0
    for group in grouped:
        num_queries, num_keys = (max(len(run[side]) for run in group) for side in (0, 1))
        for queries, _ in group:
            order.update(zip(queries, range(row, row + len(queries)), strict=True))
            row += num_queries
        queries_NQ, keys_NK = (_filled([run[side] for run in group], device) for side in (0, 1))
        lengths_N = torch.tensor([len(keys) for _, keys in group], device=device)
        mask_N11K = None
        if int(lengths_N.min()) < num_keys:
            hidden_NK = torch.arange(num_keys, device=device) >= lengths_N[:, None]
            mask_N11K = torch.zeros(hidden_NK.shape, device=device).masked_fill_(hidden_NK, -math.inf)[:, None, None]
        buckets.append(Bucket(queries_NQ, keys_NK, mask_N11K))
    return buckets, order


def _filled(runs: list[range], device: torch.device) -> Tensor:
    longest = max(map(len, runs))
    return torch.tensor([[*places, *[places[-1]] * (longest - len(places))] for places in runs], device=device)


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
    asked = [name for name in ("softcap", "s_aux", "position_bias") if others.get(name) is not None]
    if asked or dropout or attention_mask is not None or not getattr(module, "is_causal", True):
        what = ", ".join(asked) or "a mask, dropout or attention to later tokens"
        raise UnsupportedModel(f"{type(module).__name__} asks for {what}, which packs do not have")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query_THD, key_TGD, value_TGD = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    inputs = (query_THD, key_TGD, value_TGD, scale, shared_prefix.plainly)
    out_THD, weight_TH = _over(shared_prefix.own, shared_prefix.own_order_T, *inputs, causal=True)
    if not shared_prefix.prefixes:
        return out_THD[None], None
    seen_SHD, seen_weight_SH = _over(shared_prefix.prefixes, shared_prefix.prefix_order_S, *inputs, causal=False)
    places_S = shared_prefix.seeing_S
    joined_SHD = join(out_THD[places_S], weight_TH[places_S], seen_SHD, seen_weight_SH)
    return out_THD.index_copy(0, places_S, joined_SHD)[None], None


def _over(
    buckets: list[Bucket],
    order: Tensor,
    query_THD: Tensor,
    key_TGD: Tensor,
    value_TGD: Tensor,
    scale: float,
    plainly: bool,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    """Attend bucket by bucket; return the outputs and the log-sum-exps of the rows that `order` lists."""
    outs, weights = [], []
    for bucket in buckets:
        query_NHQD = query_THD[bucket.queries_NQ].transpose(1, 2)
        key_NGKD, value_NGKD = (x[bucket.keys_NK].transpose(1, 2) for x in (key_TGD, value_TGD))
        # In a causal bucket no query sees the keys after its own, so that padding needs no mask.
        mask = None if causal or bucket.mask_N11K is None else bucket.mask_N11K.to(query_NHQD.dtype)
        out, weight = attend(query_NHQD, key_NGKD, value_NGKD, scale, causal=causal, mask=mask, plainly=plainly)
        outs.append(out.transpose(1, 2).flatten(0, 1))
        weights.append(weight.transpose(1, 2).flatten(0, 1))
    return torch.cat(outs)[order], torch.cat(weights)[order]


AttentionInterface.register(NAME, _attention)
