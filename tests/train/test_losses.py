import math

import pytest
import torch

from posttrain.train.losses import (
    STRENGTH_MARGINS,
    bradley_terry_losses,
    bucketed_logprobs,
    centering_losses,
    divergences,
    loss_at_reference,
    preference_losses,
    sum_by_row,
    token_logprobs,
)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def pair(kind, beta, chosen, rejected, lengths=(1.0, 1.0)):
    values = [torch.tensor([float(x)]) for x in (chosen, rejected, *lengths)]
    return preference_losses(kind, beta, *values).item()


def test_dpo_loss_worked_by_hand():
    assert pair("sigmoid", 0.1, 2.0, -3.0) == pytest.approx(-math.log(sigmoid(0.5)))
    assert pair("sigmoid", 0.5, -1.0, 1.0) == pytest.approx(-math.log(sigmoid(-1.0)))


def test_hinge_loss_worked_by_hand():
    assert pair("hinge", 0.1, 2.0, -3.0) == pytest.approx(0.5)
    assert pair("hinge", 1.0, 2.0, -3.0) == 0.0


def test_ipo_compares_log_ratios_per_token():
    # 6 / 3 - (-4) / 2 = 4, minus 1 / (2 * 0.25) = 2
    assert pair("ipo", 0.25, 6.0, -4.0, (3.0, 2.0)) == pytest.approx(4.0)


def test_sigmoid_norm_divides_by_length():
    assert pair("sigmoid_norm", 5.0, 3.0, -2.0, (3.0, 4.0)) == pytest.approx(-math.log(sigmoid(5 * 1.5)))


@pytest.mark.parametrize("kind", ["sigmoid", "ipo", "hinge", "sigmoid_norm"])
def test_loss_at_reference_is_the_loss_of_equal_policies(kind):
    assert pair(kind, 0.3, 0.0, 0.0, (2.0, 5.0)) == pytest.approx(loss_at_reference(kind, 0.3))


def test_bradley_terry_with_margin_and_centring():
    chosen, rejected = torch.tensor([2.0, 0.5]), torch.tensor([1.0, 1.0])
    margins = torch.tensor([STRENGTH_MARGINS["significantly_better"], STRENGTH_MARGINS["marginally_better"]])
    expected = [math.log(2), -math.log(sigmoid(-0.5))]
    assert bradley_terry_losses(chosen, rejected, margins).tolist() == pytest.approx(expected)
    assert bradley_terry_losses(chosen, rejected).tolist() == pytest.approx([-math.log(sigmoid(1.0)), expected[1]])
    assert centering_losses(chosen, rejected).tolist() == pytest.approx([9.0, 2.25])


def test_sums_by_row_leave_empty_rows_at_zero():
    sums = sum_by_row(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2, 0, 2]), 4)
    assert sums.tolist() == [2.0, 0.0, 5.0, 0.0]


def test_token_logprobs_are_float32_log_softmax():
    logits = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.bfloat16)
    value = token_logprobs(logits, torch.tensor([1]))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(math.log(0.75), abs=2e-3)


def test_divergences_worked_by_hand():
    p, q = [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]
    teacher, student = torch.tensor([p]).log(), torch.tensor([q]).log()
    kl = 0.5 * math.log(2) + 0.25 * math.log(0.5)
    assert divergences("forward_kl", teacher, student, 1.0, 0).item() == pytest.approx(kl)
    assert divergences("reverse_kl", teacher, student, 1.0, 0).item() == pytest.approx(0.25 * math.log(2))
    m = [0.375, 0.25, 0.375]
    half = [sum(a * math.log(a / c) for a, c in zip(x, m, strict=True)) for x in (p, q)]
    assert divergences("jsd", teacher, student, 1.0, 0).item() == pytest.approx(sum(half) / 2)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_bucket_is_a_lower_bound_that_grows_with_k(kind):
    generator = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(7, 20, generator=generator) * 2 for _ in range(2))
    values = [divergences(kind, teacher, student, 1.0, k) for k in (1, 3, 10, 19, 0)]
    for smaller, larger in zip(values, values[1:], strict=False):
        assert (smaller <= larger + 1e-5).all()


def test_bucket_gradient_is_exact_on_kept_tokens():
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(1, 6, generator=generator, dtype=torch.float64).float()
    student = torch.randn(1, 6, generator=generator).requires_grad_()
    divergences("forward_kl", teacher, student, 1.0, 2).sum().backward()
    p, q = teacher.softmax(-1)[0], student.detach().softmax(-1)[0]
    kept = p.topk(2).indices.tolist()
    tail_p, tail_q = 1 - p[kept].sum(), 1 - q[kept].sum()
    for j in range(6):
        expected = q[j] - p[j] if j in kept else q[j] * (1 - tail_p / tail_q)
        assert student.grad[0, j].item() == pytest.approx(expected.item(), abs=1e-6)


def test_bucketed_probabilities_sum_to_one():
    logprobs = torch.randn(3, 9).log_softmax(-1)
    kept = logprobs.topk(4, dim=1).indices
    assert bucketed_logprobs(logprobs, kept).exp().sum(dim=1).tolist() == pytest.approx([1.0] * 3)


def test_temperature_keeps_the_size_of_the_gradient():
    teacher, start = torch.tensor([[1e-3, 0.0, -1e-3]]), torch.zeros(1, 3)
    gradients = []
    for temperature in (1.0, 4.0):
        student = start.clone().requires_grad_()
        divergences("forward_kl", teacher, student, temperature, 0).sum().backward()
        gradients.append(student.grad)
    # Near uniform distributions the gradient falls with 1 / temperature², which the factor makes good.
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-3, atol=1e-6)
