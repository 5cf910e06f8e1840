"""From logits to token ids: temperature, top-k, top-p, and each row's own random numbers.

Shapes: R rows of the batch, V vocabulary, B blocks of the vocabulary, K tokens of a block.
"""

from __future__ import annotations

import numpy as np
import torch

from posttrain.core.errors import ModelError
from synth.engines.base import SamplingParams

# Top-p looks at this many of the most likely tokens first, and at more only when they hold too little probability.
FIRST_CANDIDATES = 128
# Numbers of a part of the logits that is worked on at once: 4 MiB in float32.
_NUMBERS_AT_ONCE = 1 << 20
# Tokens of a block of the vocabulary.
_BLOCK = 256


def row_uniforms(seeds_R: np.ndarray, steps_R: np.ndarray) -> np.ndarray:
    """Hash (seed, step) of each row into a uniform number in [0, 1).

    A counter-based generator has no state: a row's numbers are the same in any batch, at any place in it, and
    after a restart. The mixing function is the finaliser of SplitMix64 (Steele et al. 2014), applied twice.

    Args:
        seeds_R: uint64, one per row.
        steps_R: uint64, how many tokens the row has drawn already.
    """
    mixed_R = _mix(seeds_R + (steps_R + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
    mixed_R = _mix(mixed_R ^ np.uint64(0xD1B54A32D192ED03))
    return (mixed_R >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(value_R: np.ndarray) -> np.ndarray:
    value_R = (value_R ^ (value_R >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value_R = (value_R ^ (value_R >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value_R ^ (value_R >> np.uint64(31))


def draw_tokens(logits_RV: torch.Tensor, uniforms_R: np.ndarray, params: SamplingParams) -> torch.Tensor:
    """Draw one token per row by inverting the cumulative distribution at the row's uniform number.

    Temperature comes first, then top-k, then top-p over what top-k left, the order of transformers and vLLM.

    Returns:
        Token ids (R,), int64, on the device of the logits.

    Raises:
        ModelError: A row's logits hold no finite maximum (NaN or infinity).
    """
    # A few rows at a time: their probabilities then stay in the processor's cache from one operation to the next.
    step = max(1, _NUMBERS_AT_ONCE // logits_RV.shape[-1])
    starts = range(0, len(logits_RV), step)
    return torch.cat([_draw(logits_RV[i : i + step], uniforms_R[i : i + step], params) for i in starts])


def _draw(logits_RV: torch.Tensor, uniforms_R: np.ndarray, params: SamplingParams) -> torch.Tensor:
    if params.temperature == 0:
        best_R = logits_RV.max(dim=-1)
        _refuse_not_finite(best_R.values)
        return best_R.indices
    scores_RV = logits_RV.float()
    if params.temperature != 1:
        scores_RV = scores_RV / params.temperature
    if 0 < params.top_k < scores_RV.shape[-1]:
        least_R1 = scores_RV.topk(params.top_k, dim=-1).values[:, -1:]
        scores_RV = scores_RV.masked_fill(scores_RV < least_R1, -torch.inf)
    if params.top_p < 1:
        scores_RV = scores_RV.masked_fill(scores_RV < top_p_threshold(scores_RV, params.top_p), -torch.inf)
    return _invert(torch.softmax(scores_RV, dim=-1), uniforms_R)


def top_p_threshold(scores_RV: torch.Tensor, top_p: float) -> torch.Tensor:
    """Find the lowest score of the smallest set whose probability reaches top_p, without sorting the vocabulary.

    Returns:
        Scores (R, 1); tokens below are dropped, ties at the threshold are kept.
    """
    vocabulary = scores_RV.shape[-1]
    log_total_R1 = torch.logsumexp(scores_RV, dim=-1, keepdim=True)
    candidates = min(FIRST_CANDIDATES, vocabulary)
    while True:
        top_RC = scores_RV.topk(candidates, dim=-1).values
        reached_RC = (top_RC - log_total_R1).exp().cumsum(dim=-1, dtype=torch.float64)
        if candidates == vocabulary or bool((reached_RC[:, -1] >= top_p).all()):
            break
        candidates = min(candidates * 8, vocabulary)
    # The token that crosses top_p belongs to the set, as do all before it.
    last_R1 = (reached_RC < top_p).sum(dim=-1, keepdim=True).clamp_(max=candidates - 1)
    return top_RC.gather(-1, last_R1)


def _invert(probs_RV: torch.Tensor, uniforms_R: np.ndarray) -> torch.Tensor:
    """Find the block of the vocabulary in which the cumulative sum passes each row's target, then the token in it.

    A cumulative sum in float64 over the whole vocabulary would cost more than all else; over the sums of its blocks,
    and within one block, it costs next to nothing.
    """
    num_rows, vocabulary = probs_RV.shape
    whole = vocabulary - vocabulary % _BLOCK
    blocks = [probs_RV[:, :whole].view(num_rows, -1, _BLOCK).sum(dim=-1)] if whole else []
    if whole < vocabulary:
        blocks.append(probs_RV[:, whole:].sum(dim=-1, keepdim=True))
    before_RB = torch.cat(blocks, dim=1).double().cumsum(dim=-1)
    total_R = before_RB[:, -1]
    _refuse_not_finite(total_R)
    target_R = torch.from_numpy(uniforms_R).to(total_R.device) * total_R
    block_R1 = _passes(before_RB, target_R)
    target_R = target_R - torch.nn.functional.pad(before_RB, (1, 0)).gather(1, block_R1)[:, 0]
    tokens_RK = block_R1 * _BLOCK + torch.arange(_BLOCK, device=probs_RV.device)
    inside_RK = probs_RV.gather(1, tokens_RK.clamp(max=vocabulary - 1)).double()
    inside_RK = inside_RK.masked_fill_(tokens_RK >= vocabulary, 0.0).cumsum(dim=-1)
    return (block_R1 * _BLOCK + _passes(inside_RK, target_R))[:, 0]


def _passes(cumulative_RB: torch.Tensor, target_R: torch.Tensor) -> torch.Tensor:
    """Give the first place, (R, 1), at which the sum is more than the target; what has no probability is never one."""
    # Sums in another order, or a product that rounds up, could push the target past the end.
    total_R = cumulative_RB[:, -1]
    target_R = torch.minimum(target_R.clamp(min=0), torch.nextafter(total_R, torch.zeros_like(total_R)))
    return torch.searchsorted(cumulative_RB, target_R[:, None], right=True)


def _refuse_not_finite(values_R: torch.Tensor) -> None:
    bad = ~torch.isfinite(values_R)
    if bool(bad.any()):
        raise ModelError(
            f"{int(bad.sum())} of {len(values_R)} rows have logits that are not finite - while sampling - "
            "the weights may hold NaN, or overflow in this dtype: try --dtype float32"
        )
