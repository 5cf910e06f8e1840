"""Curves of training and calibration of reward models: complete, and equal to what was logged."""

import json
import re

import pytest

from posttrain.evaluate.intervals import wilson_interval
from posttrain.report.data import reward_model_section
from posttrain.report.training import FURTHER, PANELS, curves_section

DRAWN = {name for _, names in (*PANELS, *FURTHER) for name in names}
UNDRAWN = {"step", "epoch", "num_tokens"}  # places on the axis and a running sum


def answers(text):
    return [{"role": "assistant", "content": text}]


def ask(text):
    return [{"role": "user", "content": text}]


COLOURS = ("red", "green", "blue", "black")
PAIRS = [{"prompt": ask(color), "chosen": answers("cat dog"), "rejected": answers("fish")} for color in COLOURS]
ROWS = [{"prompt": pair["prompt"], "completion": pair["chosen"]} for pair in PAIRS]


@pytest.fixture(scope="module")
def logged(tiny_model_dir, tmp_path_factory):
    """What each kind of training really logs."""
    from posttrain.config import DPOConfig, RewardModelConfig, SFTConfig
    from posttrain.train.run import train
    from posttrain.train.trainer import DEFAULT_EXECUTION

    common = {"learning_rate": 1e-4, "max_steps": 1, "global_batch_size": 4}
    configs = {"sft": SFTConfig(**common), "dpo": DPOConfig(**common), "reward_model": RewardModelConfig(**common)}
    rows = {}
    for kind, config in configs.items():
        out = tmp_path_factory.mktemp(kind)
        train(kind, tiny_model_dir, ROWS if kind == "sft" else PAIRS, out, config, 0, DEFAULT_EXECUTION)
        rows[kind] = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return rows


def test_every_number_that_a_trainer_logs_has_a_curve(logged):
    for kind, rows in logged.items():
        assert rows and set(rows[0]) - UNDRAWN - DRAWN == set(), kind


def flat(blocks):
    """Every block, also those inside a fold."""
    for block in blocks:
        yield from flat(block.blocks) if block.kind == "fold" else (block,)


def pictures_and_table(training):
    blocks = list(flat(curves_section({"training": training}).blocks))
    assert [block.kind for block in blocks[:-1]] == ["picture"] * (len(blocks) - 1)
    return blocks[:-1], blocks[-1]


@pytest.mark.parametrize(
    ("kind", "headings"),
    [
        ("sft", ["loss", "accuracy", "gradient norm"]),
        ("reward_model", ["loss", "accuracy", "margin", "gradient norm"]),
        ("dpo", ["loss", "accuracy", "margin", "log-prob per token, chosen", "log-prob per token, rejected"]),
        ("dpo", ["KL per token", "length of chosen (tokens)", "loss, NLL part", "gradient norm", "learning rate"]),
    ],
)
def test_the_curves_asked_for_are_there(logged, kind, headings):
    pictures, table = pictures_and_table({f"round_1/{kind}": logged[kind]})
    for heading in headings:
        assert any(f">{heading}<" in picture.svg for picture in pictures), heading
    values = {row[0]: row[2] for row in table.rows}
    assert values["grad_norm"] == f"{logged[kind][0]['grad_norm']:.4g}"


def test_a_curves_line_in_the_table_worked_by_hand():
    rows = [{"step": step, "loss": loss, "kl": None} for step, loss in ((1, 0.6931), (2, 0.9), (3, 0.25), (4, 0.5))]
    _, table = pictures_and_table({"round_2/dpo": rows})
    assert table.rows == [["loss", "round 2", "0.6931", "0.5", "0.25", "0.9"]]


def test_trainings_of_one_kind_share_a_drawing_and_students_have_their_own():
    rows = [{"step": 1, "loss": 0.7, "kl": 0.1}, {"step": 2, "loss": 0.5, "kl": 0.2}]
    labels = ["round_1/sft", "round_1/dpo", "round_2/sft", "round_2/dpo", "students/small/dpo"]
    section = curves_section({"training": dict.fromkeys(labels, rows)})
    dpo, _, sft, students = section.blocks  # DPO open with its table, the others folded
    assert dpo.caption.startswith("DPO. Round 1: loss 0.700 → 0.500, KL 0.100 → 0.200. Round 2:")
    assert re.findall(r">(round \d|small)<", dpo.svg) == ["round 1", "round 2"]  # one legend for all panels
    assert sft.caption.startswith("SFT. Round 1") and students.caption == "DPO of students. small: loss 0.700 → 0.500."


# ------------------------------------------------------------------ calibration


def report(accuracy, count):
    bins = [
        {"low": 0.5, "high": 0.75, "count": count, "confidence": 0.7, "accuracy": accuracy},
        {"low": 0.75, "high": 1.0, "count": 0, "confidence": None, "accuracy": None},
    ]
    return {"accuracy": accuracy, "num_pairs": count, "ece": abs(0.7 - accuracy), "calibration": bins}


def test_wilsons_interval_worked_by_hand():
    # 8 of 10, z = 1.96: centre (0.8 + 3.8416 / 20) / 1.38416 = 0.71674, half 1.96 * sqrt(0.016 + 0.009604) / 1.38416
    # = 1.96 * 0.160013 / 1.38416 = 0.22658
    assert wilson_interval(0.8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-4)
    # 0 of n: from 0 to z^2 / (n + z^2) = 3.8416 / 13.8416
    assert wilson_interval(0.0, 10) == pytest.approx((0.0, 0.27754), abs=1e-4)
    low, high = wilson_interval(0.2, 10)  # mirrored
    for count in range(1, 400):  # never outside its own interval, not by rounding either: bars have lengths
        assert wilson_interval(1.0, count)[1] == 1.0
        assert wilson_interval(0.0, count)[0] == 0.0
    assert (1 - high, 1 - low) == pytest.approx(wilson_interval(0.8, 10))


def test_an_interval_holds_its_share_whatever_rounding_does():
    for count in range(1, 2000):
        for share in (0.0, 1.0):
            low, high = wilson_interval(share, count)
            assert low <= share <= high


def test_a_reward_model_that_was_always_right_can_be_drawn():
    section = reward_model_section({"reward_model": {"1": report(1.0, 107)}})
    assert any(block.kind == "picture" for block in section.blocks)


def test_each_reward_model_has_its_own_calibration_plot():
    section = reward_model_section({"reward_model": {"1": report(0.8, 10), "2": report(0.6, 20)}})
    [picture] = [block for block in section.blocks if block.kind == "picture"]
    # ECE: |0.7 - 0.8| and |0.7 - 0.6|
    assert re.findall(r">(round \d, error [\d.]+)<", picture.svg) == ["round 1, error 0.100", "round 2, error 0.100"]
    table = section.blocks[-1]
    assert table.rows[0] == ["round 1", "0.700", "0.800 [0.490, 0.943]", "10"]
    assert [row[0] for row in table.rows] == ["round 1", "round 2"]  # empty bins are left out


def test_without_bins_the_page_says_so():
    section = reward_model_section({"reward_model": {"1": {"accuracy": 0.9, "num_pairs": 10, "calibration": []}}})
    assert "Calibration: not there yet" in section.blocks[-1].text
