import math
import random

import pytest
import torch

from posttrain.core import batching
from posttrain.core.batching import pad_left, pad_right, position_ids, token_budget_batches, token_logprobs
from posttrain.core.models import load_causal_lm


def test_rows_of_like_length_go_together_longest_first():
    # sorted: 9(1) | 5(3) 4(0) -> 2 rows of 5 = 10 | 2(2) 2(4) 1(5) -> 3 rows of 2
    assert token_budget_batches([4, 9, 2, 5, 2, 1], max_tokens=10) == [[1], [3, 0], [2, 4, 5]]
    assert token_budget_batches([4, 9, 2, 5, 2, 1], max_tokens=10, max_rows=2) == [[1], [3, 0], [2, 4], [5]]
    assert token_budget_batches([50, 1], max_tokens=10) == [[0], [1]]
    assert token_budget_batches([], max_tokens=10) == []
    for wrong in ({"max_tokens": 0}, {"max_tokens": 5, "max_rows": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            token_budget_batches([1], **wrong)


def test_every_row_once_and_the_budget_kept():
    chooser = random.Random(0)
    for _ in range(50):
        lengths = [chooser.randint(0, 40) for _ in range(chooser.randint(0, 60))]
        batches = token_budget_batches(lengths, max_tokens=64, max_rows=9)
        assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
        for batch in batches:
            assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 64
            assert len(batch) <= 9


def test_padding_goes_by_length_not_by_id():
    ids, mask = pad_left([[5, 0], [1, 2, 3]], pad_id=0)
    assert ids.tolist() == [[0, 5, 0], [1, 2, 3]] and mask.tolist() == [[0, 1, 1], [1, 1, 1]]
    ids, mask = pad_right([[5, 0], [1, 2, 3], []], pad_id=0)
    assert ids.tolist() == [[5, 0, 0], [1, 2, 3], [0, 0, 0]]
    assert mask.tolist() == [[1, 1, 0], [1, 1, 1], [0, 0, 0]]
    assert ids.dtype == mask.dtype == torch.long
    assert pad_left([], pad_id=0)[0].shape == (0, 0)
    assert position_ids(torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0]])).tolist() == [[0, 0, 0, 1], [0, 1, 1, 1]]


class Bigram(torch.nn.Module):
    """Gives token i after token j the probability that a table says."""

    def __init__(self, table):
        super().__init__()
        self.logits = torch.log(torch.tensor(table))

    def forward(self, input_ids, **_):
        return type("Output", (), {"logits": self.logits[input_ids]})()


def test_logprobs_are_those_of_the_next_token():
    model = Bigram([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [1 / 3, 1 / 3, 1 / 3]])
    ids, mask = pad_right([[0, 1, 2, 0], [1, 0]], pad_id=0)
    expected = [[0, math.log(0.25), math.log(0.8), math.log(1 / 3)], [0, math.log(0.1), 0, 0]]
    assert token_logprobs(model, ids, mask) == pytest.approx(torch.tensor(expected), abs=1e-6)
    ids, mask = pad_left([[0, 1, 2, 0], [1, 0]], pad_id=0)
    expected[1] = [0, 0, 0, math.log(0.1)]
    assert token_logprobs(model, ids, mask) == pytest.approx(torch.tensor(expected), abs=1e-6)
    assert token_logprobs(model, torch.tensor([[1]]), torch.tensor([[1]])).tolist() == [[0.0]]


def test_logprobs_do_not_depend_on_the_batch(tiny_model_dir, monkeypatch):
    model = load_causal_lm(tiny_model_dir)
    rows = [[2, 4, 18, 6], [2, 9, 6, 5, 33, 34, 35, 36], [3, 4]]
    with torch.no_grad():
        alone = [token_logprobs(model, *pad_right([row], 0))[0] for row in rows]
        for left in (True, False):
            together = token_logprobs(model, *(pad_left if left else pad_right)(rows, 0))
            for row, want, got in zip(rows, alone, together, strict=True):
                part = got[-len(row) :] if left else got[: len(row)]
                assert torch.allclose(part, want, atol=1e-5)
                assert float(got.sum()) == pytest.approx(float(want.sum()), abs=1e-4)
        monkeypatch.setattr(batching, "_MAX_LOGITS", 1)  # one position at a time
        assert torch.allclose(token_logprobs(model, *pad_right(rows, 0))[1], alone[1], atol=1e-6)


def test_logprobs_agree_with_float64_and_let_gradients_through(tiny_model_dir):
    model = load_causal_lm(tiny_model_dir)
    ids, mask = pad_right([[2, 4, 18, 6, 5, 40]], 0)
    logprobs = token_logprobs(model, ids, mask)
    wide = torch.log_softmax(model(input_ids=ids).logits.double(), dim=-1)[0]
    expected = torch.stack([wide[t - 1, ids[0, t]] for t in range(1, 6)])
    assert torch.allclose(logprobs[0, 1:].double(), expected, atol=1e-5)
    logprobs.sum().backward()
    assert float(model.model.norm.weight.grad.abs().sum()) > 0
    assert token_logprobs(load_causal_lm(tiny_model_dir, "bfloat16"), ids, mask).dtype == torch.float32
