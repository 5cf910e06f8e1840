"""Attention over a pack: every segment sees itself causally, and a completion sees its whole prompt.

Segments of like length go side by side (segment_layout.py), and all completions of a prompt meet its keys at once. The
two parts are joined by their log-sum-exp, as Hydragen does (Juravsky et al. 2024, arXiv:2402.05099, section 3.1).

Shapes: T tokens of a pack, S of them that stand in buckets, N runs of a bucket, Q queries and K keys of a run (padded),
H heads, G heads of keys and values, D width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from posttrain.core.attention import attend, join, unsupported
from posttrain.core.errors import ModelError
from posttrain.core.segment_layout import Bucket, Layout, Run, Runs, layout

__all__ = ["NAME", "Layout", "UnsupportedModel", "layout"]

NAME = "posttrain_shared_prefix"  # in AttentionInterface of transformers


class UnsupportedModel(ModelError):
    """Report a model that cannot be run over packs; padded batches serve it."""


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
    if shared_prefix.learns and query.device.type == "cpu" and query.shape[-1] == value.shape[-1]:
        out_THD: Tensor = _Learned.apply(query_THD, key_TGD, value_TGD, shared_prefix, scale)
    else:
        out_THD, _ = _joined(query_THD, key_TGD, value_TGD, shared_prefix, scale)
    return out_THD[None], None


def _joined(
    query_THD: Tensor, key_TGD: Tensor, value_TGD: Tensor, layout: Layout, scale: float
) -> tuple[Tensor, Tensor]:
    """Attend to own segment and prompt; return out_THD and the log-sum-exp of all logits, weight_TH."""
    inputs = (query_THD, key_TGD, value_TGD)
    own, prefixes = layout.own, layout.prefixes
    out_THD, weight_TH = query_THD, query_THD
    if own.buckets:
        out_THD, weight_TH = _over(own, *inputs, scale, causal=True)
    if own.alone:
        out_THD, weight_TH = _spread(out_THD, weight_TH, own, query_THD)
        for run in own.alone:
            queries = _place(run[0])
            out_THD[queries], weight_TH[queries] = _alone(run, *inputs, scale, causal=True)
    for run in prefixes.alone:
        queries = _place(run[0])
        seen_QHD, seen_weight_QH = _alone(run, *inputs, scale, causal=False)
        own_weight_QH = weight_TH[queries]
        out_THD[queries] = join(out_THD[queries], own_weight_QH, seen_QHD, seen_weight_QH)
        weight_TH[queries] = torch.logaddexp(own_weight_QH, seen_weight_QH)
    if not prefixes.buckets:
        return out_THD, weight_TH
    seen_SHD, seen_weight_SH = _over(prefixes, *inputs, scale, causal=False)
    places_S = prefixes.places_S
    own_weight_SH = weight_TH[places_S]
    joined_SHD = join(out_THD[places_S], own_weight_SH, seen_SHD, seen_weight_SH)
    weight_SH = torch.logaddexp(own_weight_SH, seen_weight_SH)
    return out_THD.index_copy(0, places_S, joined_SHD), weight_TH.index_copy(0, places_S, weight_SH)


def _spread(out_SHD: Tensor, weight_SH: Tensor, runs: Runs, query_THD: Tensor) -> tuple[Tensor, Tensor]:
    """Make room for all tokens, and put what the buckets gave where it belongs."""
    out_THD, weight_TH = torch.empty_like(query_THD), query_THD.new_empty(query_THD.shape[:2], dtype=torch.float32)
    if runs.buckets:
        out_THD.index_copy_(0, runs.places_S, out_SHD)
        weight_TH.index_copy_(0, runs.places_S, weight_SH)
    return out_THD, weight_TH


def _over(
    runs: Runs, query_THD: Tensor, key_TGD: Tensor, value_TGD: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    """Attend bucket by bucket; return out_SHD and weight_SH, the log-sum-exps."""
    outs, weights = [], []
    for bucket in runs.buckets:
        query_NHQD, key_NGKD, value_NGKD = _taken(bucket, query_THD, key_TGD, value_TGD)
        mask = None if causal or bucket.mask_N11K is None else bucket.mask_N11K.to(query_NHQD.dtype)
        out, weight = attend(query_NHQD, key_NGKD, value_NGKD, scale, causal=causal, mask=mask)
        outs.append(out.transpose(1, 2).flatten(0, 1))
        weights.append(weight.transpose(1, 2).flatten(0, 1))
    return torch.cat(outs)[runs.order_S], torch.cat(weights)[runs.order_S]


def _alone(
    run: Run, query_THD: Tensor, key_TGD: Tensor, value_TGD: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    """Attend for one run; return out_QHD and weight_QH."""
    out, weight = attend(*_viewed(run, query_THD, key_TGD, value_TGD), scale, causal=causal)
    return out[0].transpose(0, 1), weight[0].transpose(0, 1)


def _viewed(run: Run, query_THD: Tensor, key_TGD: Tensor, value_TGD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """View a run's queries, keys and values as a batch of one."""
    queries, keys = map(_place, run)
    views = (query_THD[queries], key_TGD[keys], value_TGD[keys])
    query, key, value = (tensor.transpose(0, 1)[None] for tensor in views)
    return query, key, value


def _place(places: range) -> slice:
    return slice(places.start, places.stop)


def _taken(bucket: Bucket, query_THD: Tensor, key_TGD: Tensor, value_TGD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take a bucket's queries, keys and values. In a causal one no query sees the padding of keys after its own."""
    query_NHQD = query_THD[bucket.queries_NQ].transpose(1, 2)
    return query_NHQD, key_TGD[bucket.keys_NK].transpose(1, 2), value_TGD[bucket.keys_NK].transpose(1, 2)


class _Learned(torch.autograd.Function):
    """Attend in float32 by torch's fused function, and go back through it bucket by bucket.

    The gradient of a part's logits needs nothing of the other part but the output and the log-sum-exp of both together
    (as in ring attention, Liu et al. 2023, arXiv:2310.01889), so that no logits are kept.
    """

    @staticmethod
    def forward(
        ctx: Any, query_THD: Tensor, key_TGD: Tensor, value_TGD: Tensor, layout: Layout, scale: float
    ) -> Tensor:
        ctx.layout, ctx.scale, ctx.dtype = layout, scale, query_THD.dtype
        query_THD, key_TGD, value_TGD = query_THD.float(), key_TGD.float(), value_TGD.float()
        out_THD, weight_TH = _joined(query_THD, key_TGD, value_TGD, layout, scale)
        ctx.save_for_backward(query_THD, key_TGD, value_TGD, out_THD, weight_TH)
        return out_THD.to(ctx.dtype)

    @staticmethod
    def backward(ctx: Any, grad_THD: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        *inputs, out_THD, weight_TH = ctx.saved_tensors
        grads = [torch.zeros_like(tensor) for tensor in inputs]
        given = (grad_THD.float(), out_THD)
        for runs, causal in ((ctx.layout.own, True), (ctx.layout.prefixes, False)):
            for run in runs.alone:
                queries, keys = map(_place, run)
                grad, out = (x[queries].transpose(0, 1)[None] for x in given)
                found = _back(_viewed(run, *inputs), grad, out, weight_TH[queries].T[None], causal, None, ctx.scale)
                for total, part, places in zip(grads, found, (queries, keys, keys), strict=True):
                    total[places] += part[0].transpose(0, 1)
            for bucket in runs.buckets:
                grad_NHQD, out_NHQD = (x[bucket.queries_NQ].transpose(1, 2) for x in given)
                grad_NHQD = grad_NHQD * bucket.counts_NQ[:, None, :, None]  # a query that fills up a run has none
                weight_NHQ = weight_TH[bucket.queries_NQ].transpose(1, 2)
                mask = None if causal or bucket.mask_N11K is None else bucket.mask_N11K
                if mask is not None:
                    mask = mask.expand(-1, 1, bucket.queries_NQ.shape[1], -1)
                found = _back(_taken(bucket, *inputs), grad_NHQD, out_NHQD, weight_NHQ, causal, mask, ctx.scale)
                for total, part, at in zip(grads, found, (bucket.queries_NQ, *[bucket.keys_NK] * 2), strict=True):
                    total.index_add_(0, at.flatten(), part.transpose(1, 2).flatten(0, 1))
        return (*(grad.to(ctx.dtype) for grad in grads), None, None)


def _back(
    inputs: tuple[Tensor, Tensor, Tensor],
    grad: Tensor,
    out: Tensor,
    weight: Tensor,
    causal: bool,
    mask: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Give the gradients of queries, keys and values from those of the output."""
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    return fused(grad, *inputs, out, weight, 0.0, causal, attn_mask=mask, scale=scale)  # type: ignore[no-any-return]


AttentionInterface.register(NAME, _attention)
