"""Where the time went."""

from __future__ import annotations

import pytest

from posttrain.report.times import OTHER, place_of, time_section


@pytest.mark.parametrize(
    ("label", "place", "step"),
    [
        ("base/model", "before the rounds", OTHER),
        ("seed_prompts", "before the rounds", OTHER),
        ("round_2/annotate/completions_1", "round 2", "1. annotate"),
        ("round_2/reward_model", "round 2", "2. reward model"),
        ("round_10/prompts/magpie_1", "round 10", "3. write prompts"),
        ("round_1/completions/policy", "round 1", "4. sample"),
        ("round_1/gold", "round 1", "5. score and select"),
        ("round_1/average_choice", "round 1", "6. train"),
        ("round_1/eval/scores", "round 1", "7. evaluate"),
        ("round_1/sft_checkpoint/eval/completions", "round 1", "7. evaluate"),
        ("students/small/own_base/eval/scores", "small", "7. evaluate"),
        ("round_1/gate", "round 1", "7. evaluate"),
        ("students/small/sft", "small", "6. train"),
        ("students/small/base", "small", OTHER),
        ("evaluation/gold/matrix", "over all rounds", OTHER),
        ("ratings", "over all rounds", OTHER),
    ],
)
def test_every_stage_has_its_place(label, place, step):
    assert place_of(label) == (place, step)


def test_seconds_add_up_and_the_longest_step_is_named():
    names = {"base/model": 100.0, "round_1/sft": 30.0, "round_1/dpo": 20.0, "round_1/scores": 10.0, "round_2/sft": 40.0}
    picture, table, stages = time_section({"seconds": names}).blocks
    # 30 + 20 + 40 of 200
    assert picture.caption == "3 min 20 s in all. Of the rounds' steps, “6. train” took most: 1 min 30 s, 45 %."
    rows = {row[0]: [cell.text for cell in row[1:]] for row in table.rows}
    assert rows == {"5. score and select": ["10.0 s", "–"], "6. train": ["50.0 s", "40.0 s"]}
    assert len(stages.rows) == 5
