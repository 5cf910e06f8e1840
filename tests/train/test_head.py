"""Log-probs from hidden states, in blocks: the numbers and gradients of the plain way, in bounded memory."""

import pytest
import torch
import torch.nn.functional as F

from posttrain.train import head
from posttrain.train.head import fused_logprobs


def plain(hidden, weight, bias, targets):
    logits = F.linear(hidden, weight, bias).log_softmax(dim=-1)
    return logits.gather(1, targets[:, None])[:, 0], logits


@pytest.mark.parametrize("limit", [1 << 25, 40, 1])  # kept; computed again in blocks of 4 and of 1 position
@pytest.mark.parametrize("with_bias", [False, True])
def test_values_and_gradients_are_those_of_a_whole_log_softmax(limit, with_bias, monkeypatch):
    monkeypatch.setattr(head, "MOST_LOGITS", limit)
    monkeypatch.setattr(head, "_BLOCK", min(limit, 30))
    hidden, weight = torch.randn(13, 6, dtype=torch.float64), torch.randn(10, 6, dtype=torch.float64)
    bias = torch.randn(10, dtype=torch.float64) if with_bias else None
    inputs = [tensor.float().requires_grad_() for tensor in (hidden, weight, *([bias] if with_bias else []))]
    wanted_inputs = [tensor.requires_grad_() for tensor in (hidden, weight, *([bias] if with_bias else []))]
    targets, weights = torch.randint(10, (13,)), torch.randn(13, dtype=torch.float64)
    got, entropy, is_best = fused_logprobs(inputs[0], inputs[1], inputs[2] if with_bias else None, targets, True)
    wanted, logprobs = plain(hidden, weight, bias, targets)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(entropy.double(), -(logprobs.exp() * logprobs).sum(-1), rtol=1e-5, atol=1e-5)
    assert is_best.tolist() == (logprobs.argmax(-1) == targets).float().tolist()
    (got * weights.float()).sum().backward()
    (wanted * weights).sum().backward()
    for ours, theirs in zip(inputs, wanted_inputs, strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-5)


def largest_allocation(vocabulary):
    """Bytes of the largest tensors that a forward and backward pass makes beside the weight and its gradient."""
    hidden = torch.randn(256, 16, requires_grad=True)
    weight = torch.randn(vocabulary, 16, requires_grad=True)
    targets = torch.randint(vocabulary, (256,))
    with torch.profiler.profile(profile_memory=True) as profile:
        fused_logprobs(hidden, weight, None, targets)[0].sum().backward()
    held = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most - weight.numel() * 4


def test_memory_does_not_grow_with_the_vocabulary(monkeypatch):
    # 256 positions x 32,000 tokens are 8.2 million logits, 152,000 are 38.9: both more than may stand at once.
    monkeypatch.setattr(head, "MOST_LOGITS", 1 << 22)
    small, large = largest_allocation(32_000), largest_allocation(152_000)
    assert small > 4 * (1 << 21)  # the count sees the logits
    assert large < 1.1 * small
