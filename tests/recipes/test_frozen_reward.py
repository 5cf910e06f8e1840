"""A reward model that is never refreshed is gamed, and the gate holds: recipes/frozen_reward.yaml.

How a training comes out is another on each processor; recipes/README.md has it from several. Here the gate is given the
verdicts that were recorded there, and a small run is asked only for what no rounding changes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.cli import main
from posttrain.core.files import read_rows
from posttrain.evaluate.gate import gate
from posttrain.evaluate.win_rate import win_rate
from posttrain.recipe import load_recipe
from posttrain.runs import Run, find_run

RECIPE = Path(__file__).parents[2] / "recipes" / "frozen_reward.yaml"
SMALL = (
    *("num_rounds=3", "base.steps=80", "annotate.prompts.num_prompts=60", "annotate.num_completions=4"),
    *("prompts.files.0.num_prompts=120", "prompts.num_prompts=40", "completions.num_completions=4"),
    *("evaluate.prompts.num_prompts=40", "evaluate.num_bootstrap=50"),
)

# Seed 0 of recipes/README.md: how many of the 200 prompts have a mean preference of 0, 1/8, 2/8 … 1 over round 1, and
# round 1 over the base.
GOLD = {
    1: [9, 2, 13, 15, 52, 21, 28, 20, 40],
    2: [55, 10, 40, 16, 62, 1, 14, 0, 2],
    3: [54, 6, 45, 16, 63, 3, 11, 0, 2],
    4: [53, 6, 38, 18, 65, 5, 11, 0, 4],
}
REWARD = {
    2: [3, 1, 10, 7, 28, 12, 33, 3, 103],
    3: [5, 2, 4, 3, 27, 11, 29, 11, 108],
    4: [3, 0, 4, 1, 24, 10, 33, 5, 120],
}


def recorded(counts: list[int]) -> dict[str, Any]:
    preferences = [eighths / 8 for eighths, count in enumerate(counts) for _ in range(count)]
    assert len(preferences) == 200
    return win_rate({"prompt_id": str(n), "preference": preference} for n, preference in enumerate(preferences))


def test_by_gold_the_gate_promotes_round_1_alone_and_says_why():
    recipe = load_recipe(RECIPE)
    decisions = {n: gate(recorded(GOLD[n]), recipe.gate.min_win_rate, recipe.gate.rule) for n in GOLD}
    assert [n for n, decision in decisions.items() if decision.promoted] == [1]
    assert decisions[2].reason == (
        "Held: win rate 0.307 over the best so far, 95 % interval 0.274 to 0.342, 200 prompts; "
        "the lower bound must exceed 0.500."
    )


def test_by_its_own_verdict_the_reward_model_would_have_promoted_what_the_gate_held():
    recipe = load_recipe(RECIPE)
    for counts in REWARD.values():
        decision = gate(recorded(counts), recipe.gate.min_win_rate, recipe.gate.rule, trained_against=True)
        assert decision.promoted and "CAUTION: the policy was trained against this judge." in decision.reason


def test_the_recipe_judges_by_gold_and_trains_the_reward_model_once():
    recipe = load_recipe(RECIPE)
    chosen = (recipe.reward_model.refresh, recipe.evaluate.judge.kind, recipe.gate.rule)
    assert chosen == ("once", "verifier", "lower_bound")
    assert recipe.num_rounds == 4 and not recipe.students


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, Any], str]:
    """Run the recipe at small size; give the run, its report and what was printed."""
    root = tmp_path_factory.mktemp("frozen")
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
        assert main(["run", str(RECIPE), *SMALL, "--root", str(root)]) == 0
        printed = "\n".join(lines)
        lines.clear()
        assert main(["report", "frozen_reward", "--root", str(root), "--json"]) == 0
    return find_run("frozen_reward", root), json.loads(lines[0]), printed


@pytest.mark.slow
def test_the_gate_decides_on_the_verdicts_of_gold(finished):
    found, report, printed = finished
    for entry in report["rounds"]:
        name = f"round_{entry['round']}"
        rows = read_rows(found.artifact(f"{name}/eval/win_rate_vs_previous").path / "verdicts.jsonl")
        decision = gate(win_rate(rows), 0.5, "lower_bound")
        assert (entry["promoted"], entry["reason"]) == (decision.promoted, decision.reason)
        assert (f"{name.replace('_', ' ')}: {decision.reason}" in printed) is not decision.promoted


@pytest.mark.slow
def test_each_round_samples_from_the_best_so_far_and_the_reward_model_is_that_of_round_1(finished):
    found, report, _ = finished
    best = found.artifact("base/model")
    for entry in report["rounds"]:
        name = f"round_{entry['round']}"
        sampled = found.artifact(f"{name}/completions/policy").manifest["asked"]["inputs"]
        scored = found.artifact(f"{name}/scores").manifest["asked"]["inputs"]
        assert sampled["model"] == best.reference
        assert scored["reward_model"] == found.artifact("round_1/reward_model").reference
        if entry["round"] > 1:
            assert found.artifact(f"{name}/reward_model") is None
            assert found.artifact(f"{name}/annotate/labels") is None
        if entry["promoted"]:
            best = found.artifact(f"{name}/policy")
    assert found.artifact("best") == best


@pytest.mark.slow
def test_the_judge_that_trained_the_policy_is_marked_and_said_loudly(finished):
    _, report, printed = finished
    marked = {judge["name"]: (judge["main"], judge["trained_against"]) for judge in report["judges"]}
    assert marked == {"verifier": (True, False), "frozen_reward": (False, True)}
    assert "CAUTION: the policy was trained against the judge frozen_reward." in printed


@pytest.mark.slow
def test_drift_is_measured_in_every_round_and_an_alarm_is_what_exceeds_its_limit(finished):
    _, report, printed = finished
    kl = [row for row in report["drift"] if row["measure"] == "kl_from_base"]
    limit = load_recipe(RECIPE).evaluate.drift.max_kl_from_base
    assert [row["round"] for row in kl] == [1, 2, 3]
    for row in kl:
        assert row["alarm"] == (row["value"] > limit) == (f"ALARM: round {row['round']}, kl_from_base" in printed)
