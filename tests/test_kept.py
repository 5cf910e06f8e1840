"""A round whose average chose an earlier policy alone is that policy, wherever a person reads of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.kept import best_of, decisions, is_itself, table_of_rounds
from posttrain.report.overview import overview_section
from posttrain.report.results import rounds_section
from posttrain.runs import Run, find_run

RATE = {"win_rate": 0.5, "low": 0.456, "high": 0.544, "num_pairs": 40}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Three rounds, all promoted; the second and third have the weights of the first."""
    references = {"base/model": "folder/1", **{f"round_{n}/policy": "dpo/1" for n in (1, 2, 3)}, "best": "dpo/1"}
    names = {label: {"reference": reference, "path": None} for label, reference in references.items()}
    record = {"recipe": "r", "state": "finished", "stages": [], "planned": [], "names": names}
    folder = tmp_path / "runs" / "r"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "recipe.resolved.json").write_text(json.dumps({"name": "r", "num_rounds": 3, "students": []}))
    metrics = {f"round_{n}/gate": {"promoted": True, "reason": "Promoted: 0.500."} for n in (1, 2, 3)}
    metrics |= {f"round_{n}/eval/win_rate_vs_previous": RATE for n in (1, 2, 3)}
    monkeypatch.setattr(Run, "metrics", lambda self, label: metrics.get(label))
    return find_run("r", tmp_path)


def test_it_is_named_and_not_compared_with_itself(run):
    rounds = decisions(run)
    assert [entry.get("same_as") for entry in rounds] == [None, "round_1", "round_1"]
    assert rounds[1]["reason"] == "Round 2 kept the weights of round 1: there is no new model to compare."
    assert best_of(rounds) == "round_1"
    _, first, second, third = table_of_rounds(run).splitlines()[:4]
    assert first.endswith("promoted") and "0.456" in first
    assert second.endswith("  round 2 kept the weights of round 1") and "0.456" not in second
    assert third.endswith("  round 3 kept the weights of round 1")


def test_the_page_says_so(run):
    page = {"rounds": [entry | {"win_rate_vs_previous": RATE, "win_rate_vs_base": RATE} for entry in decisions(run)]}
    headline, table = (block for block in rounds_section(page).blocks[:2])
    assert headline.text.startswith("1 of 3 rounds promoted, 0 held. Round 2 kept the weights of round 1. Round 3 kept")
    assert "Best: round 1," in headline.text
    assert [row[1] for row in table.rows] == ["0.500 [0.456, 0.544]", "–", "–"]
    assert [row[-1].text for row in table.rows] == ["promoted", "kept round 1", "kept round 1"]
    drawn = rounds_section(page).blocks[-1].svg
    assert "round 1" in drawn and "round 2" not in drawn and "round 3" not in drawn
    best, gate = (card for card in overview_section(page).blocks[0].cards[:2])
    assert (best.value, gate.value, gate.note) == (
        "round 1", "1 of 3", "0 held, 2 kept the weights of the best before"
    )  # fmt: skip


def test_going_back_behind_the_best_is_a_comparison_of_two_models():
    rounds = [{"round": n, "promoted": True} for n in (1, 2)]
    back = {"round": 3, "promoted": False, "same_as": "round_1"}
    assert not is_itself([*rounds, back], back)  # the best before is round 2
    assert is_itself([rounds[0], back], back)
