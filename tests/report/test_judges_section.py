"""Verdicts on the page: matrices, ratings and agreement by judge, drift."""

from __future__ import annotations

import re

import pytest

from posttrain.evaluate.gate import caution, gate
from posttrain.report.drift import drift_section
from posttrain.report.judged import both_ways, judge_sentence, mirrored, model_order, shown_model
from posttrain.report.judges import judges_section
from posttrain.report.model_card import model_card
from posttrain.report.overview import overview_section
from posttrain.report.ratings import ratings_section


def flat(blocks):
    for block in blocks:
        yield from flat(block.blocks) if block.kind == "fold" else (block,)


def tables(section):
    return [block for block in flat(section.blocks) if block.kind == "table"]


def test_matrix_fills_the_other_way_round(example_run):
    matrix = next(table for table in tables(judges_section(example_run)) if "by gold" in table.caption)
    cells = {
        (row[0], model): cell for row in matrix.rows for model, cell in zip(matrix.columns[1:], row[1:], strict=True)
    }
    # base over round 1 is 1 / (1 + 10 ** (155 / 400)) = 0.291, so round 1 over the base is 0.709, 0.05 either way
    assert (cells["base", "round 1"].text, cells["base", "round 1"].below) == ("0.29 ▼", "[0.24, 0.34]")
    assert (cells["round 1", "base"].text, cells["round 1", "base"].below) == ("0.71 ▲", "[0.66, 0.76]")
    # as far from 0.5: as dark a shade, 2 * 0.209, of another colour, and a mark; 55 points are 0.579 [0.529, 0.629]
    down, up = cells["base", "round 1"], cells["round 1", "base"]
    assert (down.style, up.style) == ("shaded less clear", "shaded more clear")
    assert down.shade == up.shade == pytest.approx(0.418, abs=0.001)
    # 18 points are 1 / (1 + 10 ** (-18 / 400)) = 0.526, 0.05 either way: 0.5 is within
    assert (cells["round 2", "round 3"].text, cells["round 2", "round 3"].style) == ("0.53", "shaded more")
    assert "▲" in matrix.caption and "▼" in matrix.caption
    assert cells["round 1", "round 1"].text == "–"


def test_a_mirrored_comparison_changes_all_sides():
    entry = {
        "a": "x", "b": "y", "win_rate": 0.7, "low": 0.6, "high": 0.75, "wins": 7, "ties": 0, "losses": 3,
        "num_pairs": 10, "mean_length_a": 30.0, "mean_length_b": 20.0,
        "length_controlled": {"win_rate": 0.65, "low": 0.5, "high": 0.8},
    }  # fmt: skip
    seen = mirrored(entry)
    assert (seen["a"], seen["b"], seen["wins"], seen["losses"], seen["mean_length_a"]) == ("y", "x", 3, 7, 20.0)
    assert [seen[key] for key in ("win_rate", "low", "high")] == pytest.approx([0.3, 0.25, 0.4])
    assert seen["length_controlled"]["high"] == pytest.approx(0.5)
    assert both_ways([entry, seen])["x", "y"] == entry  # what was measured stands


def test_models_stand_in_the_order_of_the_run():
    names = ["students/s", "round_2", "teacher", "round_10", "round_1", "base", "round_1/sft"]
    ordered = ["base", "round_1/sft", "round_1", "round_2", "round_10", "teacher", "students/s"]
    assert model_order({"ratings": [{"model": name} for name in names]}) == ordered
    assert shown_model("round_1/sft") == "round 1 after SFT"


def test_the_gates_judge_stands_first_and_open_and_others_are_folded(example_run):
    section = judges_section(example_run)
    kinds = [block.kind for block in section.blocks]
    assert kinds == ["text", "table", "table", "fold", "fold", "fold", "fold", "table"]
    assert section.blocks[-1].rows == [["base", "0.410", "−0.400"], ["round 3", "0.780", "2.500"]]  # mean scores
    assert "by gold" in section.blocks[2].caption
    assert [row[0] for row in section.blocks[1].rows] == ["gold", "own_reward_model", "reader"]


def test_a_judge_that_the_policy_was_trained_against_is_named_loudly_everywhere(example_run, page):
    section = judges_section(example_run)
    assert section.blocks[0].tone == "caution" and "trained against own_reward_model" in section.blocks[0].text
    assert page.count("own_reward_model (TRAINED AGAINST)") >= 3  # both charts' legends, the judges side by side
    assert "Matrix and numbers by own_reward_model, TRAINED AGAINST" in page


def test_judges_stand_side_by_side(example_run):
    table = next(table for table in tables(judges_section(example_run)) if "every judge" in table.caption)
    # round 3 over the base: gold 192 points, the reward model 460, the reader 185; measured as base over round 3
    row = next(row for row in table.rows if row[0] == "base over round 3")
    expected = [1 / (1 + 10 ** (points / 400)) for points in (192, 460, 185)]
    assert [cell.split(" ")[0] for cell in row[1:]] == [f"{value:.3f}" for value in expected]


def test_pairs_have_lengths_flips_and_rates_at_equal_length(example_run):
    table = next(table for table in tables(judges_section(example_run)) if "Every pair by reader" in table.caption)
    line = dict(zip(table.columns, table.rows[0], strict=True))
    assert (line["Flips"], line["Mean length of A"], line["Unreadable"]) == ("0.080", "31.4", "1")
    assert line["At equal length"].startswith("0.")


def test_ratings_of_all_judges_and_their_agreement_are_there(example_run):
    ratings, agreement = tables(ratings_section(example_run))
    assert ["round 3", "own_reward_model", "460", "425 to 495"] in ratings.rows
    assert agreement.rows[0] == ["gold and own_reward_model", "0.710", "0.440", "0.470 [0.430, 0.510]", "2\u202f100"]


def test_an_agreement_without_an_interval_is_shown_without_one(example_run):
    entry = {**example_run["agreement"][0], "low": None, "high": None}
    *_, agreement = tables(ratings_section({**example_run, "agreement": [entry]}))
    assert agreement.rows[0][3] == "0.470"


def test_an_older_run_without_judges_has_one_matrix(example_run):
    entries = [{key: value for key, value in entry.items() if key != "judge"}
               for entry in example_run["matrix"] if entry["judge"] == "gold"]  # fmt: skip
    section = judges_section({"matrix": entries, "ratings": example_run["ratings"]})
    assert [block.kind for block in section.blocks] == ["table", "fold"]
    assert len(section.blocks[0].rows) == 6


def test_alarms_stand_first_and_in_the_overview(example_run):
    section = drift_section(example_run)
    assert section.blocks[0].text == "ALARM in round 3: kl_from_base is 0.240, above its threshold of 0.2"
    (cards,) = overview_section(example_run).blocks
    card = next(card for card in cards.cards if card.label == "Drift alarms")
    assert (card.value, card.note, card.tone) == ("1", "round 3", "bad")
    calm = [entry | {"alarm": False} for entry in example_run["drift"]]
    assert drift_section({"drift": calm}).blocks[0].text.startswith("No alarm: all 18 measures")


def test_charts_have_an_alternative_in_numbers(page):
    """Every drawing is followed by a table, folded or not, before the next section begins."""
    for section in re.findall(r"<section.*?</section>", page, re.DOTALL):
        if "<svg" in section:
            assert "<table" in section


def judged_by(trained_against=False, **judge):
    judges = [{"name": judge["kind"], "kind": judge["kind"], "main": True, "trained_against": trained_against}]
    return {"judges": judges, "config": {"evaluate": {"judge": judge}}}


def test_a_given_reward_model_that_judges_what_it_trained_is_not_called_a_stranger(example_run):
    """`reward_model: {kind: given, model: rm}` and `evaluate.judge.model: rm`: the recipe alone does not tell."""
    model = {"kind": "folder", "path": "rm"}
    own = judged_by(kind="reward_model", model=model, trained_against=True)
    assert judge_sentence(own) == caution("the gate's judge")
    assert judge_sentence(judged_by(kind="reward_model", model=model)).endswith("trained nothing here: rm.")
    card = model_card(example_run | own | {"matrix": [], "ratings_by_judge": {}}, "round_1")
    assert "trained nothing here" not in card and card.count("CAUTION: the policy was trained against") == 1


def test_a_rubric_judge_reads_one_answer_at_a_time():
    sentence = judge_sentence(judged_by(kind="rubric", model={"kind": "hub", "repo": "org/m"}, lowest=1, highest=5))
    assert sentence == (
        "Judged by a language model that rates one answer at a time, from 1 to 5; equal ratings tie: org/m."
    )
    assert "both answers" in judge_sentence(judged_by(kind="llm", model={"kind": "hub", "repo": "org/m"}))


def test_every_place_cautions_in_the_same_words(example_run):
    said = caution("own_reward_model")
    assert judges_section(example_run).blocks[0].text == said
    assert said in model_card(example_run, "best")
    measured = {"win_rate": 0.6, "low": 0.55, "high": 0.65, "num_pairs": 9}
    assert gate(measured, 0.5, trained_against=True).reason.endswith(caution("this judge"))
