"""Model cards."""

import pytest

from posttrain.core.errors import DataError
from posttrain.report.model_card import model_card


def test_card_of_the_best_round_has_its_numbers(example_run):
    card = model_card(example_run, "best")
    assert card.startswith('---\nlibrary_name: transformers\ntags: [posttrain]\nbase_model: "someone/base"\n---\n')
    assert "# quickstart: best" in card
    assert "- Model: round_2" in card
    assert "- Gate: Promoted: win rate 0.580" in card
    assert "| the base | 0.770 [0.715, 0.825] | 0.750 [0.695, 0.805] | 200 |" in card
    assert "Rating 210 [175, 245]; the base is 0." in card
    assert "Judged by the verifier world.py:verify" in card
    assert "| round 2 | 600 |" in card
    assert "| round 3 |" not in card
    assert "| train.dpo.beta | 0.1 |" in card
    assert "| torch | 2.13.0 |" in card


def test_card_of_a_student(example_run):
    card = model_card(example_run, "small")
    assert "| its own base | 0.800 [0.750, 0.850] |" in card
    assert "| its teacher | 0.310 [0.250, 0.370] |" in card
    assert "| round 3 |" in card


def test_a_run_that_promoted_nothing_exports_its_base(example_run):
    held = [entry | {"promoted": False} for entry in example_run["rounds"]]
    assert "No round was promoted" in model_card(example_run | {"rounds": held}, "best")


def test_an_empty_run_still_has_a_card():
    assert "# run: base" in model_card({}, "base")


def test_values_cannot_break_the_card():
    card = model_card({"recipe": "a | b\n# <script>"}, "base")
    assert "# a \\| b # &lt;script>: base" in card


def test_a_round_that_is_not_there_is_refused(example_run):
    with pytest.raises(DataError, match="round_1, round_2, round_3"):
        model_card(example_run, "round_9")
