"""What a run's judges say: the win-rate matrix, ratings and agreement, judge by judge, and drift round by round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from posttrain.runs import Run
from posttrain.store.artifacts import Artifact

Row = dict[str, Any]
OF_A_PAIR = ("win_rate", "judged_win_rate")
"""Stages that compare two models inside the rounds, by the main judge."""


def judges_of(found: Run) -> list[Row]:
    """List the run's judges, the gate's first, and say which of them the policy was trained against."""
    evaluate = found.recipe["evaluate"]
    judges = {evaluate["judge"]["kind"]: evaluate["judge"], **(evaluate.get("judges") or {})}
    return [
        {
            "name": name,
            "kind": judge["kind"],
            "main": judge is evaluate["judge"],
            "trained_against": _trained_against(found, name, judge, judge is evaluate["judge"]),
        }
        for name, judge in judges.items()
    ]


def _trained_against(found: Run, name: str, judge: Mapping[str, Any], is_main: bool) -> bool:
    """Tell by content, not by path, whether a judge is the run's own reward model."""
    if judge["kind"] != "reward_model":
        return False
    if judge["model"] is None:
        return True
    names = found.record["names"]
    given, own = names.get("judge" if is_main else f"judges/{name}"), names.get("reward_model")
    return given is not None and own is not None and given["reference"] == own["reference"]


def matrix_of(found: Run, artifacts: Mapping[str, Artifact]) -> Iterator[Row]:
    """Yield every pair's win rate by every judge; of a run on its way, those that the rounds have measured so far."""
    main = found.recipe["evaluate"]["judge"]["kind"]
    matrices = _matrices(found)
    for rows in matrices.values():
        yield from rows.get("matrix", ())
    if main in matrices:
        return
    for label, artifact in artifacts.items():
        # What averages were chosen by (round_2/single_1/…) stands under the names of the models that were taken.
        if artifact.stage in OF_A_PAIR and "/eval/" in label:
            measured = {key: value for key, value in artifact.metrics.items() if key != "names"}
            a, b = artifact.metrics["names"]
            yield {"a": a, "b": b, "judge": main, **measured}


def ratings_of(found: Run) -> dict[str, list[Row]]:
    """Return each judge's ratings, the base at 0."""
    return {judge: list(metrics["ratings"]) for judge, metrics in _matrices(found).items() if "ratings" in metrics}


def main_ratings_of(found: Run) -> list[Row]:
    """Return the ratings by the gate's judge: of every pair where there is a matrix, else of the rounds' pairs."""
    by_judge = ratings_of(found)
    main = judges_of(found)[0]["name"]
    return by_judge[main] if main in by_judge else list((found.metrics("ratings") or {}).get("ratings", []))


def mean_scores_of(found: Run) -> dict[str, dict[str, float]]:
    """Return the mean score that each judge which scores gave each model's held-out answers."""
    found_scores = {judge: dict(metrics.get("mean_scores") or {}) for judge, metrics in _matrices(found).items()}
    return {judge: scores for judge, scores in found_scores.items() if scores}


def agreement_of(found: Run) -> list[Row]:
    """Return how far every two judges agree."""
    return list((found.metrics("evaluation/agreement") or {}).get("agreement", []))


def drift_of(found: Run) -> list[Row]:
    """Return every round's drift measures with their thresholds."""
    rounds = (found.metrics(f"round_{number}/drift") or {} for number in range(1, found.num_rounds + 1))
    return [row for metrics in rounds for row in metrics.get("drift", ())]


def _matrices(found: Run) -> dict[str, Mapping[str, Any]]:
    names = [judge["name"] for judge in judges_of(found)]
    metrics = {name: found.metrics(f"evaluation/{name}/matrix") for name in names}
    return {name: of_judge for name, of_judge in metrics.items() if of_judge is not None}
