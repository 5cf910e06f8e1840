"""Packed linear layers: the same products, and the same bits in any batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from posttrain.core.packed_linear import PackedLinear, pack_linears

SIZES = [(96, 256), (256, 96), (512, 700)]


def linear(size, dtype=torch.float32, bias=True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(*size, bias=bias).to(dtype)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_those_of_the_linear_layer(size, bias):
    plain = linear(size, bias=bias)
    rows = torch.randn(3, 5, size[0])
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(plain)(rows), plain(rows), atol=1e-5, rtol=1e-5)


def test_products_in_bfloat16():
    """oneDNN has them on processors with AVX-512 or newer; elsewhere a model keeps its plain layers."""
    layers = torch.nn.Sequential(linear(SIZES[0], torch.bfloat16))
    plain = layers[0]
    assert pack_linears(layers) == torch.ops.mkldnn._is_mkldnn_bf16_supported()
    rows = torch.randn(8, 96, dtype=torch.bfloat16)
    with torch.inference_mode():
        torch.testing.assert_close(layers(rows), plain(rows), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("size", SIZES)
def test_a_row_has_the_same_bits_in_any_batch_and_with_any_number_of_threads(size):
    packed = PackedLinear(linear(size))
    rows = torch.randn(200, size[0])
    with torch.inference_mode():
        whole = packed(rows)
        for count in (2, 3, 7, 8, 31, 64, 150):
            assert torch.equal(packed(rows[:count]), whole[:count])
        shuffled = torch.randperm(200)
        assert torch.equal(packed(rows[shuffled]), whole[shuffled])
        before = torch.get_num_threads()
        torch.set_num_threads(before + 1)
        try:
            assert torch.equal(packed(rows), whole)
        finally:
            torch.set_num_threads(before)


def test_a_model_gives_the_logits_that_it_gave(tiny_model_dir):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()
    ids = torch.arange(8, 28)[None]
    with torch.inference_mode():
        before = model(input_ids=ids).logits
        # Two layers of query, key, value, output and three of the MLP, and the head.
        assert pack_linears(model) == 2 * 7 + 1
        torch.testing.assert_close(model(input_ids=ids).logits, before, atol=1e-5, rtol=1e-5)
    assert pack_linears(model) == 0


def test_layers_under_a_hook_stay():
    model = nn.Sequential(linear((8, 8)), linear((8, 1)))
    model[1].register_forward_pre_hook(lambda module, inputs: inputs)
    assert pack_linears(model) == 1
    assert type(model[0]) is PackedLinear and type(model[1]) is nn.Linear


def test_a_dtype_without_packed_products_stays():
    assert pack_linears(nn.Sequential(linear((8, 8), torch.float64))) == 0
