"""A reward model that is never refreshed is gamed, and the gate holds: recipes/frozen_reward.yaml at small size."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from posttrain.cli import main
from posttrain.recipe import load_recipe
from posttrain.runs import Run, find_run

RECIPE = Path(__file__).parents[2] / "recipes" / "frozen_reward.yaml"
SMALL = (
    *("base.steps=300", "annotate.prompts.num_prompts=200"),
    *("prompts.files.0.num_prompts=450", "prompts.num_prompts=150"),
    *("evaluate.prompts.num_prompts=120", "evaluate.num_bootstrap=200"),
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, Any], str]:
    """Run the recipe; give the run, its report and what was printed."""
    root = tmp_path_factory.mktemp("frozen")
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
        assert main(["run", str(RECIPE), *SMALL, "--root", str(root)]) == 0
        printed = "\n".join(lines)
        lines.clear()
        assert main(["report", "frozen_reward", "--root", str(root), "--json"]) == 0
    return find_run("frozen_reward", root), json.loads(lines[0]), printed


def of_rounds(report: dict[str, Any], judge: str) -> list[float]:
    """Return the mean score of the base's and each round's held-out answers."""
    scores = report["mean_scores"][judge]
    return [scores[name] for name in ("base", "round_1", "round_2", "round_3")]


def test_the_reward_rises_round_after_round_and_the_gold_score_falls(finished):
    _, report, _ = finished
    reward, gold = of_rounds(report, "frozen_reward"), of_rounds(report, "verifier")
    assert reward == sorted(set(reward)), reward
    assert gold[1] > gold[0] and gold[1] > max(gold[2:]), gold
    rates = [entry["win_rate_vs_previous"] for entry in report["rounds"]]
    assert rates[0]["low"] > 0.5 and all(rate["win_rate"] < 0.5 for rate in rates[1:]), rates


def test_by_its_own_verdict_the_reward_model_would_have_promoted_what_the_gate_held(finished):
    _, report, _ = finished
    by_judge = {(e["judge"], e["a"], e["b"]): e["win_rate"] for e in report["matrix"]}
    for later in ("round_2", "round_3"):
        assert by_judge["frozen_reward", later, "round_1"] > 0.5 > by_judge["verifier", later, "round_1"]


def test_the_gate_holds_and_says_why(finished):
    found, report, printed = finished
    assert [entry["promoted"] for entry in report["rounds"]] == [True, False, False]
    assert all("the lower bound must exceed 0.500" in entry["reason"] for entry in report["rounds"])
    for number in (2, 3):
        assert re.search(rf"round {number}: Held: win rate 0\.[0-4]\d\d over the best so far", printed)
    assert found.artifact("best") == found.artifact("round_1/policy")


def test_the_next_round_samples_from_the_best_and_trains_no_reward_model(finished):
    found, _, _ = finished
    best = found.artifact("round_1/policy")
    for number in (2, 3):
        sampled = found.artifact(f"round_{number}/completions/policy")
        assert sampled.manifest["asked"]["inputs"]["model"] == best.reference
        scored = found.artifact(f"round_{number}/scores").manifest["asked"]["inputs"]
        assert scored["reward_model"] == found.artifact("round_1/reward_model").reference
        assert found.artifact(f"round_{number}/reward_model") is None
        assert found.artifact(f"round_{number}/annotate/labels") is None


def test_the_judge_that_trained_the_policy_is_marked_and_said_loudly(finished):
    _, report, printed = finished
    marked = {judge["name"]: (judge["main"], judge["trained_against"]) for judge in report["judges"]}
    assert marked == {"verifier": (True, False), "frozen_reward": (False, True)}
    assert "CAUTION: the policy was trained against the judge frozen_reward." in printed


def test_drift_is_alarmed_where_the_reward_is_gamed(finished):
    _, report, printed = finished
    kl = [row for row in report["drift"] if row["measure"] == "kl_from_base"]
    assert [row["round"] for row in kl] == [1, 2, 3]
    assert kl[0]["value"] < kl[1]["value"] and kl[1]["alarm"] and kl[2]["alarm"], kl
    assert "ALARM: round 2, kl_from_base" in printed


def test_the_recipe_judges_by_gold_and_trains_the_reward_model_once():
    recipe = load_recipe(RECIPE)
    chosen = (recipe.reward_model.refresh, recipe.evaluate.judge.kind, recipe.gate.rule)
    assert chosen == ("once", "verifier", "lower_bound")
    assert recipe.num_rounds == 3 and not recipe.students
