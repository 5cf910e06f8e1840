"""Drawing a token: the inverse of the cumulative distribution, block by block."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from synth.engines.base import SamplingParams
from synth.engines.draw import draw_tokens

PLAIN = SamplingParams(1.0, 1.0, 0, 8, ())


def by_hand(logits_RV: torch.Tensor, uniforms_R: np.ndarray) -> list[int]:
    """Float64 over the whole vocabulary: the first token at which the sum passes the target."""
    sums_RV = logits_RV.double().softmax(-1).cumsum(-1)
    return [int((sums > u * float(sums[-1])).nonzero()[0]) for sums, u in zip(sums_RV, uniforms_R, strict=True)]


@pytest.mark.parametrize("vocabulary", [1, 70, 255, 256, 257, 1000, 32_000])
def test_tokens_are_those_of_the_whole_cumulative_sum(vocabulary):
    generator = torch.Generator().manual_seed(vocabulary)
    logits_RV = torch.randn(60, vocabulary, generator=generator) * 3
    uniforms_R = torch.rand(60, generator=generator, dtype=torch.float64).numpy()
    drawn = draw_tokens(logits_RV, uniforms_R, PLAIN).tolist()
    # A target within rounding of a boundary may fall on its other side.
    differ = [row for row, wanted in enumerate(by_hand(logits_RV, uniforms_R)) if wanted != drawn[row]]
    assert len(differ) <= 1


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
@pytest.mark.parametrize("vocabulary", [70, 300, 512])
def test_the_ends_of_the_interval_draw_tokens_that_are_possible(vocabulary, uniform):
    logits_RV = torch.full((vocabulary - 2, vocabulary), -torch.inf)
    for row in range(vocabulary - 2):  # two possible tokens with a gap between them
        logits_RV[row, [row, row + 2]] = 0.0
    drawn_R = draw_tokens(logits_RV, np.full(vocabulary - 2, uniform), PLAIN)
    expected = range(vocabulary - 2) if uniform == 0 else range(2, vocabulary)
    assert drawn_R.tolist() == list(expected)


@pytest.mark.parametrize(
    "params",
    [PLAIN, SamplingParams(0.7, 0.9, 0, 8, ()), SamplingParams(1.3, 1.0, 9, 8, ()), SamplingParams(0.0, 1.0, 0, 8, ())],
    ids=["plain", "top-p", "top-k", "greedy"],
)
def test_a_row_draws_the_same_token_in_any_batch(params):
    generator = torch.Generator().manual_seed(2)
    logits_RV = torch.randn(90, 33_000, generator=generator) * 2  # three parts of 31 rows at most
    uniforms_R = torch.rand(90, generator=generator, dtype=torch.float64).numpy()
    whole = draw_tokens(logits_RV, uniforms_R, params).tolist()
    assert [int(draw_tokens(logits_RV[i : i + 1], uniforms_R[i : i + 1], params)) for i in range(90)] == whole


def test_frequencies_over_several_blocks_match_the_softmax():
    from scipy.stats import chisquare

    logits_V = torch.randn(600, generator=torch.Generator().manual_seed(3))
    uniforms_R = (np.arange(50_000) + 0.5) / 50_000  # a grid: counts are within one of their expectation
    counts = np.bincount(draw_tokens(logits_V.expand(50_000, -1), uniforms_R, PLAIN).numpy(), minlength=600)
    expected = logits_V.double().softmax(-1).numpy() * 50_000
    assert np.abs(counts - expected).max() < 2
    assert chisquare(counts, expected).pvalue > 0.99
