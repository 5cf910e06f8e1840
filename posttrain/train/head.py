"""Log-probs of given tokens from hidden states, without the logits of a whole batch standing in memory.

The output head is the largest matrix product of a small model and its result the largest tensor of a large one. Here
logits exist for a block of positions at a time. Where all of them together are small they are kept for the backward
pass, otherwise they are computed again, so that memory does not grow with the vocabulary (as Liger's and TRL's fused
heads have it; both of those project the positions that nothing is learned from, too).

Shapes: N positions, n positions of a block, H hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MOST_LOGITS = 1 << 25
"""Logits held at once, 128 MiB in float32."""
_BLOCK = 1 << 21  # logits that one elementwise pass takes at a time, so that they stay in the processor's cache


def fused_logprobs(
    hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_N: Tensor, measure: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Give log p(target) at each position for logits = hidden · weightᵀ + bias.

    Products are in the compute type of autocast where that is on, log-softmax is always in float32.

    Args:
        measure: also give the entropy of each distribution and whether the target is its most likely token.

    Returns:
        logprobs_N; entropy_N in nats and is_best_N without gradient, both empty unless asked for. float32.
    """
    device = hidden_NH.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_NH.dtype
    with torch.autocast(device, enabled=False):
        return _TokenLogprobs.apply(hidden_NH.to(dtype), weight_VH.to(dtype), bias_V, targets_N, measure)  # type: ignore[no-any-return]


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_N: Tensor, measure: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        keep = targets_N.numel() * weight_VH.shape[0] <= MOST_LOGITS
        parts, ctx.logits = [], []
        for hidden_nH, targets_n in _split(weight_VH.shape[0], hidden_NH, targets_N):
            logits_nV = _logits(hidden_nH, weight_VH, bias_V)
            parts.append(_read(logits_nV, targets_n, measure))
            if keep and ctx.needs_input_grad[0]:
                ctx.logits.append(logits_nV)
        logprobs_N, sums_N, entropy_N, is_best_N = (torch.cat(column) for column in zip(*parts, strict=True))
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, targets_N, sums_N)
        ctx.mark_non_differentiable(entropy_N, is_best_N)
        return logprobs_N, entropy_N, is_best_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor, *_: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden_NH, weight_VH, bias_V, targets_N, sums_N = ctx.saved_tensors
        kept, ctx.logits = ctx.logits, None  # written over below
        wants_weight = ctx.needs_input_grad[1]
        hidden_grads: list[Tensor] = []
        weight_grad: Tensor | None = None
        bias_grad: Tensor | None = None
        blocks = _split(weight_VH.shape[0], hidden_NH, targets_N, sums_N, grad_N)
        for number, (hidden_nH, targets_n, sums_n, grad_n) in enumerate(blocks):
            logits_nV = kept[number] if kept else _logits(hidden_nH, weight_VH, bias_V)
            delta_nV = _delta(logits_nV, targets_n, sums_n, grad_n)
            if bias_V is not None and ctx.needs_input_grad[2]:
                bias_grad = delta_nV.sum(dim=0) + (0.0 if bias_grad is None else bias_grad)
            delta_nV = delta_nV.to(weight_VH.dtype)
            hidden_grads.append(delta_nV @ weight_VH)
            if weight_grad is not None:
                weight_grad.addmm_(delta_nV.T, hidden_nH)
            elif wants_weight:
                weight_grad = delta_nV.T @ hidden_nH
        return torch.cat(hidden_grads), weight_grad, bias_grad, None, None


def _split(vocabulary: int, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Cut tensors of N rows into blocks whose logits may stand in memory; one block at least."""
    size = max(1, MOST_LOGITS // vocabulary)
    return list(zip(*(tensor.split(size) for tensor in tensors), strict=True))


def _logits(hidden_nH: Tensor, weight_VH: Tensor, bias_V: Tensor | None) -> Tensor:
    """Multiply, and give float32."""
    if hidden_nH.dtype != torch.float32 and hidden_nH.is_cuda:
        logits_nV = torch.mm(hidden_nH, weight_VH.T, out_dtype=torch.float32)  # sums are not rounded on their way out
    else:
        logits_nV = (hidden_nH @ weight_VH.T).float()
    return logits_nV if bias_V is None else logits_nV.add_(bias_V)


def _read(logits_nV: Tensor, targets_n: Tensor, measure: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Give the targets' log-probs and the log-sum-exps, and entropies and hits where asked for."""
    sums, entropies, hits = [], [], []
    for block in logits_nV.split(max(1, _BLOCK // logits_nV.shape[1])):
        sums.append(block.logsumexp(dim=1))
        if measure:
            entropies.append(sums[-1] - ((block - sums[-1][:, None]).exp_() * block).sum(dim=1))
            hits.append(block.argmax(dim=1))
    sums_n = torch.cat(sums)
    logprobs_n = logits_nV.gather(1, targets_n[:, None])[:, 0] - sums_n
    if not measure:
        return logprobs_n, sums_n, sums_n.new_empty(0), sums_n.new_empty(0)
    return logprobs_n, sums_n, torch.cat(entropies), (torch.cat(hits) == targets_n).float()


def _delta(logits_nV: Tensor, targets_n: Tensor, sums_n: Tensor, grad_n: Tensor) -> Tensor:
    """Turn logits, in place, into the gradient with respect to them: grad · (one at the target - softmax)."""
    size = max(1, _BLOCK // logits_nV.shape[1])
    for block, sum_n, weight_n in zip(*(tensor.split(size) for tensor in (logits_nV, sums_n, grad_n)), strict=True):
        block.sub_(sum_n[:, None]).exp_().mul_(-weight_n[:, None])
    return logits_nV.scatter_add_(1, targets_n[:, None], grad_n[:, None])
