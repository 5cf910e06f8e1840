"""How slots and prompts are cut into runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from posttrain.core.errors import ModelError
from synth.engines.step import attention, num_columns, prompt_runs, run_bounds

CPU = torch.device("cpu")


def test_rows_of_like_age_make_one_run():
    assert run_bounds(np.array([10, 3, 0, 31, 32])) == [(0, 5, 32)]
    assert run_bounds(np.array([200, 150, 101, 180])) == [(0, 4, 224)]


def test_a_run_ends_where_a_row_is_half_as_old():
    ages = np.array([400, 300, 290, 210, 200, 120, 110, 101, 90, 20, 10])
    # 200 <= 400 / 2 begins the second run, 90 <= 200 / 2 the third; 90 > 64, and 20 follows before four slots.
    assert run_bounds(ages) == [(0, 4, 416), (4, 8, 224), (8, 11, 96)]
    assert num_columns(run_bounds(ages)) == 4 * 416 + 4 * 224 + 3 * 96


def test_free_slots_end_no_run():
    assert run_bounds(np.array([300, 0, 0, 0, 0, 280])) == [(0, 6, 320)]


def test_each_row_finds_its_place_among_the_prompts():
    owners = np.array([2, 0, 2, 2, 4, 0])  # places 1 and 3 are free
    runs, back = prompt_runs(owners, np.array([5, 9, 32, 1, 7]), num_heads=4, dtype=torch.float32, device=CPU)
    (run,) = runs
    assert (run.start, run.stop, run.span) == (0, 5, 32)
    # Prompt 0 has rows 1 and 5, prompt 2 rows 0, 2 and 3, prompt 4 row 4; the rest is filled up with row 0.
    assert run.rows_PR.tolist() == [[1, 5, 0], [0, 0, 0], [0, 2, 3], [0, 0, 0], [4, 0, 0]]
    assert run.rows_PR.flatten()[back].tolist() == [0, 1, 2, 3, 4, 5]
    assert (run.mask == 0).sum(-1).flatten().tolist() == [5, 9, 32, 1, 7]


def test_many_prompts_make_several_runs_each_as_wide_as_needed():
    owners = np.repeat(np.arange(40), [1] * 20 + [6] * 20)
    runs, back = prompt_runs(owners, np.full(40, 64), num_heads=1, dtype=torch.float32, device=CPU)
    assert [(run.start, run.stop) for run in runs] == [(0, 14), (14, 27), (27, 40)]
    # One head: rows are filled up to four, so that the product has no one to three rows.
    assert [run.rows_PR.shape[1] for run in runs] == [4, 8, 8]
    assert all(run.mask is None for run in runs)
    assert torch.cat([run.rows_PR.flatten() for run in runs])[back].tolist() == list(range(140))


def test_a_layer_that_asks_for_more_than_slots_have_is_refused_by_name():
    token = torch.zeros(1, 2, 1, 8)
    with pytest.raises(ModelError, match="Identity asks for softcap, s_aux"):
        attention(nn.Identity(), token, token, token, None, slots=object(), softcap=30.0, s_aux=token)
    with pytest.raises(ModelError, match="values of another width than keys"):
        attention(nn.Identity(), token, token, token[..., :4], None, slots=object())
