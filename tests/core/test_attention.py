"""Attention in parts: fused and unfused agree, and parts joined are the whole."""

from __future__ import annotations

import torch

from posttrain.core.attention import _attend_plainly, attend, join, unsupported

SCALE = 0.3


def tensors(num_keys=24):
    torch.manual_seed(0)
    return torch.randn(3, 4, 6, 16), torch.randn(3, 2, num_keys, 16), torch.randn(3, 2, num_keys, 16)


def by_hand(query, key, value, mask):
    """Float64, head by head: query head h reads key-value head h // 2."""
    out = torch.empty(query.shape, dtype=torch.float64)
    for head in range(4):
        logits = query[:, head].double() @ key[:, head // 2].double().transpose(-1, -2) * SCALE + mask[:, 0].double()
        out[:, head] = logits.softmax(-1) @ value[:, head // 2].double()
    return out.float()


def hidden_from(lengths, num_keys=24):
    columns = torch.arange(num_keys) >= torch.tensor(lengths)[:, None]
    return torch.zeros(columns.shape).masked_fill_(columns, torch.finfo(torch.float32).min)[:, None, None, :]


def test_a_mask_hides_columns_in_both_ways():
    query, key, value = tensors()
    mask = hidden_from([24, 7, 1])
    wanted = by_hand(query, key, value, mask)
    fused, fused_weight = attend(query, key, value, SCALE, mask=mask)
    plain, plain_weight = _attend_plainly(query, key, value, SCALE, False, mask)
    torch.testing.assert_close(fused, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(plain, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fused_weight, plain_weight, atol=1e-5, rtol=1e-5)


def test_parts_joined_are_the_whole():
    query, key, value = tensors()
    whole, _ = attend(query, key, value, SCALE)
    left, left_weight = attend(query, key[:, :, :10], value[:, :, :10], SCALE)
    right, right_weight = attend(query, key[:, :, 10:], value[:, :, 10:], SCALE)
    torch.testing.assert_close(join(left, left_weight, right, right_weight), whole, atol=1e-5, rtol=1e-5)


def test_a_row_has_the_same_bits_wherever_it_stands():
    """Elementwise functions may take the last numbers of a tensor by another routine; rows must not notice."""
    torch.manual_seed(1)
    out, other = torch.randn(2, 37, 5, 16)
    weight, other_weight = torch.randn(2, 37, 5)
    whole = join(out, weight, other, other_weight)
    for start, stop in ((0, 1), (3, 11), (36, 37), (5, 37)):
        part = slice(start, stop)
        assert torch.equal(join(out[part], weight[part], other[part], other_weight[part]), whole[part])


def test_columns_beyond_a_row_do_not_change_its_bits():
    query, key, value = tensors(num_keys=160)
    narrow = attend(query, key[:, :, :32], value[:, :, :32], SCALE, mask=hidden_from([5, 31, 32], 32))
    for span in (64, 96, 160):
        wide = attend(query, key[:, :, :span], value[:, :, :span], SCALE, mask=hidden_from([5, 31, 32], span))
        assert torch.equal(wide[0], narrow[0]) and torch.equal(wide[1], narrow[1])


def test_what_attention_in_parts_does_not_do_is_listed():
    assert unsupported({"softcap": 50.0, "s_aux": None, "sliding_window": None, "is_causal": True}) == ["softcap"]
    assert unsupported({"position_bias": SCALE, "s_aux": 0.0}) == ["s_aux", "position_bias"]
    assert unsupported({"softcap": None}) == []
