"""Losses of training, as pure functions of tensors.

Shapes: B pairs or rows, N supervised positions of a batch, V vocabulary, K teacher tokens kept.
Log-probabilities and divergences are in nats.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PreferenceLoss = Literal["sigmoid", "ipo", "hinge", "sigmoid_norm"]
Divergence = Literal["forward_kl", "reverse_kl", "jsd"]

LN2 = math.log(2.0)

STRENGTH_MARGINS = {
    "significantly_better": 1.0,
    "better": 2.0 / 3.0,
    "slightly_better": 1.0 / 3.0,
    "marginally_better": 0.0,
}
"""Margin by strength of a preference: the small margins of Llama 2 (2307.09288, table 27)."""


def token_logprobs(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Give log p(target) at each position, in float32 whatever the dtype of the logits.

    Returns:
        logprobs_N, each at most 0.
    """
    return -F.cross_entropy(logits_NV.float(), targets_N, reduction="none")


@torch.no_grad()
def entropy_and_hits(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Give the entropy at each position, in nats, and 1 where the target is the most likely token, both float32."""
    logprobs_NV = logits_NV.float().log_softmax(dim=-1)
    entropy_N = -(logprobs_NV.exp() * logprobs_NV).sum(dim=-1)
    return entropy_N, (logprobs_NV.argmax(dim=-1) == targets_N).float()


def sum_by_row(values_N: Tensor, row_N: Tensor, num_rows: int) -> Tensor:
    """Add the values of each row: values_B[b] = sum of values_N where row_N == b."""
    return values_N.new_zeros(num_rows).index_add(0, row_N, values_N)


def preference_losses(
    kind: PreferenceLoss,
    beta: float,
    chosen_logratios_B: Tensor,
    rejected_logratios_B: Tensor,
    chosen_lengths_B: Tensor,
    rejected_lengths_B: Tensor,
) -> Tensor:
    """Give the preference loss of each pair.

    Args:
        kind: sigmoid is DPO (2305.18290, eq. 7); hinge is SLiC's form (2305.10425); ipo is 2310.12036, eq. 17, on
            log-ratios per token, as its authors confirmed to TRL; sigmoid_norm is DPO on log-ratios per token
            (Tülu 3, 2411.15124, eq. 6).
        beta: strength of the tie to the reference; for ipo it is that paper's tau.
        chosen_logratios_B: log policy(chosen) - log reference(chosen), summed over the compared tokens.
        rejected_logratios_B: the same for rejected.
        chosen_lengths_B: compared tokens of chosen, at least 1; read by ipo and sigmoid_norm.
        rejected_lengths_B: the same for rejected.

    Returns:
        losses_B, in nats for sigmoid and sigmoid_norm.
    """
    if kind in ("ipo", "sigmoid_norm"):
        chosen_logratios_B = chosen_logratios_B / chosen_lengths_B
        rejected_logratios_B = rejected_logratios_B / rejected_lengths_B
    delta_B = chosen_logratios_B - rejected_logratios_B
    if kind == "ipo":
        return (delta_B - 1.0 / (2.0 * beta)) ** 2
    if kind == "hinge":
        return torch.relu(1.0 - beta * delta_B)
    return -F.logsigmoid(beta * delta_B)


def loss_at_reference(kind: PreferenceLoss, beta: float) -> float:
    """Give the loss of a pair while policy and reference are the same: ln 2 for DPO."""
    if kind == "ipo":
        return 1.0 / (2.0 * beta) ** 2
    return 1.0 if kind == "hinge" else LN2


def bradley_terry_losses(chosen_B: Tensor, rejected_B: Tensor, margin_B: Tensor | None = None) -> Tensor:
    """Give -log sigmoid(chosen - rejected - margin) for each pair of scores (2307.09288, eq. 2)."""
    delta_B = chosen_B - rejected_B
    return -F.logsigmoid(delta_B if margin_B is None else delta_B - margin_B)


def centering_losses(chosen_B: Tensor, rejected_B: Tensor) -> Tensor:
    """Give (chosen + rejected)^2 for each pair, which keeps scores near zero (2312.09244)."""
    return (chosen_B + rejected_B) ** 2


def bucketed_logprobs(logprobs_NV: Tensor, kept_NK: Tensor) -> Tensor:
    """Keep the log-probs of K tokens and put all others into one outcome.

    A divergence on the K+1 outcomes is a lower bound of the full one and is minimal at the same place on the kept
    tokens and the tail's mass, where leaving the tail out or renormalising is not (see docs/papers.md).

    Args:
        logprobs_NV: log-probabilities that sum to 1 over V.
        kept_NK: ids of the kept tokens, distinct within a position, K < V.

    Returns:
        logprobs_NK1: the kept ones, then the tail.
    """
    head_NK = logprobs_NV.gather(1, kept_NK)
    rest_NV = logprobs_NV.scatter(1, kept_NK, float("-inf"))
    return torch.cat([head_NK, rest_NV.logsumexp(dim=1, keepdim=True)], dim=1)


def divergences(
    kind: Divergence, teacher_logits_NV: Tensor, student_logits_NV: Tensor, temperature: float, top_k: int
) -> Tensor:
    """Give the divergence between teacher and student at each position, times temperature squared.

    With p the teacher and q the student: forward_kl is KL(p || q), reverse_kl is KL(q || p), jsd is the mean of
    KL(p || m) and KL(q || m) with m = (p + q) / 2. The factor temperature² keeps the size of the gradient as the
    temperature changes (1503.02531, section 2).

    Args:
        teacher_logits_NV: the teacher's logits; no gradient flows into them.
        student_logits_NV: the student's logits, same vocabulary.
        temperature: both softmaxes divide logits by it.
        top_k: teacher tokens kept per position, the rest in one bucket; 0 keeps all.
    """
    teacher_NV = torch.log_softmax(teacher_logits_NV.detach().float() / temperature, dim=-1)
    student_NV = torch.log_softmax(student_logits_NV.float() / temperature, dim=-1)
    if 0 < top_k < teacher_NV.shape[1]:
        kept_NK = teacher_NV.topk(top_k, dim=1).indices
        teacher_NV = bucketed_logprobs(teacher_NV, kept_NK)
        student_NV = bucketed_logprobs(student_NV, kept_NK)
    if kind == "forward_kl":
        values_N = _kl(teacher_NV, student_NV)
    elif kind == "reverse_kl":
        values_N = _kl(student_NV, teacher_NV)
    else:
        mixture_NV = torch.logaddexp(teacher_NV, student_NV) - LN2
        values_N = 0.5 * (_kl(teacher_NV, mixture_NV) + _kl(student_NV, mixture_NV))
    return values_N * temperature**2


def _kl(first_NV: Tensor, second_NV: Tensor) -> Tensor:
    """Give KL(first || second) at each position from log-probabilities."""
    return (first_NV.exp() * (first_NV - second_NV)).sum(dim=-1)
