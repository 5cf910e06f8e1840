"""Point 7 of a round: scores on held-out prompts, win rates with intervals, the gate, and one rating for all models."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from posttrain.config import GateConfig, VerifierJudge
from posttrain.core.files import atomic_write, read_rows, write_jsonl
from posttrain.evaluate.choice import choose
from posttrain.evaluate.gate import gate
from posttrain.evaluate.pairing import pair_rows, pair_scores
from posttrain.evaluate.rating import ratings
from posttrain.evaluate.win_rate import win_rate
from posttrain.stages import StageCall
from posttrain.steps.verifying import JOURNAL, read_scored, score_counts, verify_rows

Row = dict[str, Any]


def verify(call: StageCall, judge: VerifierJudge, content: str) -> dict[str, Any]:
    """Score held-out answers with a verifier; an answer that it could not judge has no score and is counted."""
    rows = verify_rows(call, judge, read_rows(call.inputs["completions"] / "completions.jsonl"))
    write_jsonl(call.out / "scored.jsonl", rows)
    (call.out / JOURNAL).unlink()
    return score_counts(rows)


def win_rate_of_scores(call: StageCall, names: list[str]) -> dict[str, Any]:
    """Compare two models by the scores of their answers, averaged within each prompt."""
    a, b = (read_scored(call.inputs[side]) for side in ("a", "b"))
    return finish_win_rate(call, pair_scores(a, b), names, pair_rows(a, b).alone)


def finish_win_rate(call: StageCall, verdicts: list[Row], names: list[str], alone: tuple[int, int]) -> dict[str, Any]:
    """Write verdicts and the win rate that they make.

    Args:
        alone: prompts that only A answered, and that only B did.
    """
    write_jsonl(call.out / "verdicts.jsonl", verdicts)
    result = {**win_rate(verdicts, alone), "names": names}
    atomic_write(call.out / "win_rate.json", json.dumps(result, indent=1) + "\n")
    return result


def decide(call: StageCall, rule: GateConfig, judge: str, trained_against: bool) -> dict[str, Any]:
    """Promote a round, or keep the best so far and say why, and by whose verdict."""
    result = json.loads((call.inputs["win_rate"] / "win_rate.json").read_text(encoding="utf-8"))
    decision = dataclasses.asdict(gate(result, rule.min_win_rate, rule.rule, trained_against))
    decision |= {"judge": judge, "trained_against": trained_against}
    atomic_write(call.out / "decision.json", json.dumps(decision, indent=1) + "\n")
    return decision


def choose_average(call: StageCall, rule: str, members: list[int]) -> dict[str, Any]:
    """Take the average of policies, or the best single one where it wins more over the base, and say why."""
    singles, average = (
        [json.loads((folder / "win_rate.json").read_text(encoding="utf-8"))["win_rate"] for folder in folders]
        for folders in (call.inputs["singles"], [call.inputs["average"]])
    )
    decision = dataclasses.asdict(choose(singles, average[0], rule, members))
    atomic_write(call.out / "decision.json", json.dumps(decision, indent=1) + "\n")
    return decision


def rate(call: StageCall, anchor: str, seed: int, num_bootstrap: int) -> dict[str, Any]:
    """Rate every model of the run on one scale from all comparisons, the anchor at zero."""
    matches: dict[tuple[str, str], list[Row]] = {}
    for path in call.inputs["win_rates"]:
        a, b = json.loads((path / "win_rate.json").read_text(encoding="utf-8"))["names"]
        if a != b:
            matches[a, b] = read_rows(path / "verdicts.jsonl")
    result = {"ratings": ratings(matches, anchor, seed, num_bootstrap)}
    atomic_write(call.out / "ratings.json", json.dumps(result, indent=1) + "\n")
    return result
