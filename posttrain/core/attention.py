"""Attention in parts: each part gives its output and the log-sum-exp of its logits, and parts are joined exactly.

This is how a prompt's keys and values serve all its completions (Hydragen, Juravsky et al. 2024, arXiv:2402.05099,
section 3.1): one product for all queries against the prompt, one for each row against its own tokens.

Shapes: N segments, Q queries, K keys, H heads, G heads of keys and values (H is a multiple of G), D width of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MOST_LOGITS = 1 << 26
"""Logits held at once where attention is not fused: 256 MiB in float32."""


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    causal: bool = False,
    mask: Tensor | None = None,
    plainly: bool = False,
) -> tuple[Tensor, Tensor]:
    """Attend, and give the log-sum-exp of the logits too.

    Args:
        query: (N, H, Q, D).
        key: (N, G, K, D).
        value: (N, G, K, D).
        scale: what the logits are multiplied with.
        causal: query i sees the keys up to i.
        mask: (N or 1, 1, 1 or Q, K), added to the logits, in the dtype of the query; not together with `causal`.
        plainly: attend as where gradients are wanted, so that the numbers with and without them are the same.

    Returns:
        Outputs (N, H, Q, D), and log-sum-exps (N, H, Q) in float32.
    """
    learns = plainly or torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    # No gradient flows through the log-sum-exp of the fused function.
    if query.device.type == "cpu" and not learns and query.shape[-1] == value.shape[-1]:
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        if mask is not None:
            mask = mask.expand(query.shape[0], 1, query.shape[2], key.shape[2])
        out, weight = fused(query, key, value, 0.0, causal, attn_mask=mask, scale=scale)
        return out, weight
    return _attend_plainly(query, key, value, scale, causal, mask)


def join(out: Tensor, weight: Tensor, other: Tensor, other_weight: Tensor) -> Tensor:
    """Join the outputs of the same queries against two sets of keys, given their log-sum-exps.

    Args:
        out: (…, D) with `weight` (…); `other` and `other_weight` likewise.
    """
    # A softmax works row by row. A sigmoid takes the last few numbers of a tensor by another routine than the rest, so
    # that a row's bits would depend on where in a batch it stands.
    share = torch.softmax(torch.stack([weight, other_weight], dim=-1), dim=-1)[..., 1:].to(out.dtype)
    return torch.lerp(out, other, share)


def _attend_plainly(
    query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attend by two matrix products and a softmax in float32: on any device, with gradients."""
    copies = query.shape[1] // key.shape[1]
    if copies > 1:
        key, value = key.repeat_interleave(copies, dim=1), value.repeat_interleave(copies, dim=1)
    step = max(1, _MOST_LOGITS // (query.shape[0] * query.shape[1] * key.shape[2]))
    outs, weights = [], []
    for start in range(0, query.shape[2], step):
        logits = (query[:, :, start : start + step] @ key.transpose(-1, -2)).float() * scale
        if mask is not None:
            logits = logits + (mask if mask.shape[2] == 1 else mask[:, :, start : start + step])
        if causal:
            later = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(start + 1)
            logits = logits.masked_fill(later, -math.inf)
        weights.append(logits.logsumexp(dim=-1))
        outs.append((logits - weights[-1][..., None]).exp().to(value.dtype) @ value)
    return torch.cat(outs, dim=2), torch.cat(weights, dim=2)
