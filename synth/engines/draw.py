"""From logits to token ids: temperature, top-k, top-p, and each row's own random numbers.

Shapes: R rows of the batch, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch

from posttrain.core.errors import ModelError
from synth.engines.base import SamplingParams

# Top-p looks at this many of the most likely tokens first, and at more only when they hold too little probability.
FIRST_CANDIDATES = 128


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
    if params.temperature == 0:
        best_R = logits_RV.max(dim=-1)
        _refuse_not_finite(best_R.values)
        return best_R.indices
    scores_RV = logits_RV.float() / params.temperature
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
    cumulative_RV = probs_RV.cumsum(dim=-1, dtype=torch.float64)
    total_R = cumulative_RV[:, -1]
    _refuse_not_finite(total_R)
    target_R = torch.from_numpy(uniforms_R).to(total_R.device) * total_R
    # A product that rounds up to the total would fall behind the last token.
    target_R = torch.minimum(target_R, torch.nextafter(total_R, torch.zeros_like(total_R)))
    return torch.searchsorted(cumulative_RV, target_R[:, None], right=True)[:, 0]


def _refuse_not_finite(values_R: torch.Tensor) -> None:
    bad = ~torch.isfinite(values_R)
    if bool(bad.any()):
        raise ModelError(
            f"{int(bad.sum())} of {len(values_R)} rows have logits that are not finite - while sampling - "
            "the weights may hold NaN, or overflow in this dtype: try --dtype float32"
        )
