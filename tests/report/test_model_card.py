"""Model cards: the numbers of the run, and front matter that the hub can read."""

import re

import pytest
from huggingface_hub import ModelCard

from posttrain.core.errors import DataError
from posttrain.report.blocks import rate
from posttrain.report.card_data import measured
from posttrain.report.model_card import model_card


def test_card_of_the_best_round_has_its_numbers(example_run):
    card = model_card(example_run, "best")
    assert "# quickstart: best" in card
    assert "- Model: round_2" in card
    assert "- Gate: Promoted: win rate 0.580" in card
    # gold: 210 points are 1 / (1 + 10 ** (-210 / 400)) = 0.770; the matrix has base over round 2, mirrored
    assert "| base | gold | 0.770 [0.720, 0.820] | 0.790 [0.740, 0.840] | 200 | 28.9 | 31.4 |" in card
    assert "- Rating 210 [175, 245] by gold; the base is 0." in card
    assert "- Rating 340 [305, 375] by own_reward_model; the base is 0." in card
    assert "Judged by the verifier world.py:verify" in card
    assert "CAUTION: the policy was trained against own_reward_model" in card
    assert "| KL from the base (nats per token) | 0.160 | 0.200 | within |" in card
    assert "| hellaswag | acc_norm | 5 solved examples, chat template | 0.319 | 0.005 |" in card
    assert "| round 2 | 600 |" in card
    assert "| round 3 | 600 |" not in card
    assert "| magpie | 780 | 375 |" in card  # SFT rows of two rounds, pairs of the second: 390 + 390, 390 - 15
    assert "| train.dpo.beta | 0.1 |" in card
    assert "| torch | 2.13.0 |" in card


@pytest.mark.parametrize("name", ["best", "base", "round_1", "small"])
def test_the_numbers_are_those_of_the_report(example_run, name):
    card = model_card(example_run, name)
    model = {"best": "round_2", "small": "students/small"}.get(name, name)
    own = [entry for entry in example_run["matrix"] if model in (entry["a"], entry["b"])]
    assert len(own) == 3 * 5  # three judges, five other models
    for entry in own:
        ends = (entry["win_rate"], entry["low"], entry["high"])
        if entry["b"] == model:
            ends = (1 - entry["win_rate"], 1 - entry["high"], 1 - entry["low"])
        assert f"| {rate(dict(zip(('win_rate', 'low', 'high'), ends, strict=True)))} |" in card
    lines = [line for line in card.splitlines() if re.match(r"\| .* \| (gold|reader|own_reward_model)", line)]
    assert len(lines) == len(own)


def test_the_front_matter_is_what_the_hub_reads(example_run):
    data = ModelCard(model_card(example_run, "best")).data
    assert (data.library_name, data.base_model, data.tags) == ("transformers", "someone/base", ["posttrain"])
    assert data.model_name == "quickstart-round_2"
    results = {(result.dataset_name, result.metric_name or result.metric_type): result.metric_value
               for result in data.eval_results}  # fmt: skip
    assert results["held-out prompts of quickstart", "win rate over base by gold"] == pytest.approx(0.770, abs=5e-4)
    assert results["hellaswag", "acc_norm (5 solved examples, chat template)"] == 0.319
    assert len(results) == 15 + 1
    for against, judge, result in measured(example_run, "round_2"):
        assert results["held-out prompts of quickstart", f"win rate over {against} by {judge}"] == result["win_rate"]


def test_card_of_a_student(example_run):
    card = model_card(example_run, "small")
    assert "| round 3 |" in card and "- Rating −40 [−75, −5] by gold" in card
    assert "What it was trained on" not in card  # its data are its own, not the rounds'


def test_an_older_run_has_the_win_rates_of_its_rounds_and_students(example_run):
    older = {key: value for key, value in example_run.items() if key not in ("judges", "ratings_by_judge")}
    card = model_card(older, "round_2")
    assert "| base | – | 0.770 [0.715, 0.825] | 0.750 [0.695, 0.805] | 200 |" in card
    assert "- Rating 210 [175, 245]; the base is 0." in card
    card = model_card(older, "small")
    assert "| its own base | – | 0.800 [0.750, 0.850] |" in card
    assert "| its teacher | – | 0.310 [0.250, 0.370] |" in card


def test_a_run_that_promoted_nothing_exports_its_base(example_run):
    held = [entry | {"promoted": False} for entry in example_run["rounds"]]
    assert "No round was promoted" in model_card(example_run | {"rounds": held}, "best")


def test_an_empty_run_still_has_a_card():
    card = model_card({}, "base")
    assert "# run: base" in card
    assert ModelCard(card).data.to_dict() == {"library_name": "transformers", "tags": ["posttrain"]}


def test_values_cannot_break_the_card():
    card = model_card({"recipe": "a | b\n# <script>"}, "base")
    assert "# a \\| b # &lt;script>: base" in card


def test_a_round_that_is_not_there_is_refused(example_run):
    with pytest.raises(DataError, match="round_1, round_2, round_3"):
        model_card(example_run, "round_9")


def test_a_round_that_kept_earlier_weights_has_their_card(example_run):
    first, second, _ = example_run["rounds"]
    run = example_run | {"rounds": [first, second | {"same_as": "round_1"}]}
    assert "- Model: round_1\n- Gate: Promoted: win rate 0.710" in model_card(run, "best")
    assert "- Model: round_1\n" in model_card(run, "round_2")
