"""Collect what a run's artifacts say into the one mapping that the page and `report --json` show."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.core.files import read_rows
from posttrain.kept import decisions
from posttrain.model_names import reference_of
from posttrain.report import round_data
from posttrain.report.choices import best_of_k_curve, gold_curves
from posttrain.report.evaluation import (
    agreement_of,
    drift_of,
    judges_of,
    main_ratings_of,
    matrix_of,
    mean_scores_of,
    ratings_of,
)
from posttrain.report.recipe_text import recipe_sources, recipe_text
from posttrain.report.rewards import histograms
from posttrain.runs import Run, harness_rows
from posttrain.store.artifacts import Artifact

RATE_KEYS = (
    "win_rate", "low", "high", "num_pairs", "wins", "ties", "losses", "unreadable", "left_out", "length_controlled"
)  # fmt: skip
TRAINED = ("reward_model", "sft", "dpo")


def collect(found: Run) -> dict[str, Any]:
    """Return the run as interface.md's `report --json`, with what the page shows besides.

    A run that is not finished has what is there; rounds that have not begun are left out.
    """
    numbers = [number for number in range(1, found.num_rounds + 1) if _began(found, number)]
    artifacts = dict(found.artifacts())
    decided = {entry["round"]: entry for entry in decisions(found)}
    gold = {number: round_data.gold_scores(found, number) for number in numbers}
    benchmarks = harness_rows(found.folder)
    # A name stands for another checkpoint after a run with a changed recipe; numbers stay with the one they are of.
    current = [row for row in benchmarks if row.get("artifact") == reference_of(found, row["model"])]
    return {
        "recipe": found.name,
        "run": str(found.folder),
        "state": found.state,
        "lost": found.lost,
        "rounds": [decided[number] | _round(found, number) for number in numbers],
        "ratings": main_ratings_of(found),
        "students": [_student(found, student["name"]) for student in found.recipe["students"]],
        "harness": current,
        "harness_left_out": len(benchmarks) - len(current),
        "seconds": {label: artifact.manifest["seconds"] for label, artifact in artifacts.items() if artifact.manifest},
        "judges": judges_of(found),
        "matrix": list(matrix_of(found, artifacts)),
        "ratings_by_judge": ratings_of(found),
        "mean_scores": mean_scores_of(found),
        "agreement": agreement_of(found),
        "drift": drift_of(found),
        "funnel": {str(number): _funnel(found, number) for number in numbers},
        "reward_model": {str(number): dict(metrics) for number in numbers if (metrics := _reward_model(found, number))},
        "training": dict(_curves(artifacts)),
        "best_of_k": {
            f"round {n}": curve for n in numbers if (curve := best_of_k_curve(round_data.scored_rows(found, n)))
        },
        "best_of_k_gold": {
            str(n): curves for n in numbers if (curves := gold_curves(round_data.scored_rows(found, n), gold[n]))
        },
        "gold_failures": {
            str(n): failure for n in numbers if (failure := (found.metrics(f"round_{n}/gold") or {}).get("failure"))
        },
        "rewards": histograms({str(number): round_data.scores(found, number) for number in numbers}),
        "trained_on": [row for number in numbers for row in round_data.trained_on(found, number)],
        "samples": [row for number in numbers for row in round_data.samples(found, number, gold[number])],
        "stages": [
            {
                "name": row["label"],
                "seconds": _seconds(artifacts, row),
                "address": row["address"],
                "status": row["status"],
            }
            for row in found.record["stages"]
        ],
        "config": found.recipe,
        "recipe_text": recipe_text(found),
        "recipe_sources": recipe_sources(found),
        "versions": _versions(artifacts),
        "seeds": {"recipe": found.recipe["seed"]},
    }


def _began(found: Run, number: int) -> bool:
    return any(row["label"].startswith(f"round_{number}/") for row in found.record["stages"])


def _round(found: Run, number: int) -> dict[str, Any]:
    label = f"round_{number}"
    return {
        "average": dict(found.metrics(f"{label}/average_choice") or {}),
        "win_rate_vs_previous": _rate(found, f"{label}/eval/win_rate_vs_previous"),
        "win_rate_vs_base": _rate(found, f"{label}/eval/win_rate_vs_base"),
        "reward_model": dict(_reward_model(found, number) or {}),
        "data": _data(round_data.steps(found, number)),
    }


def _rate(found: Run, label: str) -> dict[str, Any]:
    metrics = found.metrics(label) or {}
    return {key: metrics[key] for key in (*RATE_KEYS, "mean_length_a", "mean_length_b") if key in metrics}


def _reward_model(found: Run, number: int) -> Mapping[str, Any] | None:
    """Return the reward model's own report on held-out prompts; a given one has none."""
    artifact = found.artifact(f"round_{number}/reward_model")
    path = Path() if artifact is None else artifact.path / "report.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _data(steps: Sequence[Mapping[str, Any]]) -> dict[str, int | None]:
    rows = {step["step"]: step["rows"] for step in steps}
    written, kept = rows.get("written"), rows.get("cleaned")
    return {
        "prompts": written,
        "kept": kept,
        "dropped": None if written is None or kept is None else written - kept,
        "completions": rows.get("sampled"),
        "sft_rows": rows.get("kept"),
        "pairs": rows.get("paired"),
    }


def _funnel(found: Run, number: int) -> dict[str, Any]:
    """Return the steps of a round's data, and their counts by name as `report --json` has always had them."""
    steps = round_data.steps(found, number)
    data = _data(steps)
    return {
        "written": data["prompts"],
        "cleaned": data["kept"],
        "sampled": data["completions"],
        "kept": data["sft_rows"],
        "trained": data["pairs"],
        "dropped": next((step["dropped"] for step in steps if step["step"] == "cleaned"), {}),
        "steps": steps,
        "warnings": round_data.warnings(found, number),
    }


def _student(found: Run, name: str) -> dict[str, Any]:
    label = f"students/{name}/eval"
    return {
        "name": name,
        "win_rate_vs_own_base": _rate(found, f"{label}/win_rate_vs_own_base"),
        "win_rate_vs_teacher": _rate(found, f"{label}/win_rate_vs_teacher"),
    }


def _curves(artifacts: Mapping[str, Artifact]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for label, artifact in artifacts.items():
        path = artifact.path / "metrics.jsonl"
        if artifact.stage in TRAINED and path.exists():
            yield label, read_rows(path)


def _seconds(artifacts: Mapping[str, Artifact], row: Mapping[str, Any]) -> float | None:
    artifact = artifacts.get(row["label"])
    return artifact.manifest["seconds"] if artifact and artifact.manifest else None


def _versions(artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    manifests = [artifact.manifest for artifact in artifacts.values() if artifact.manifest]
    if not manifests:
        return {}
    newest = max(manifests, key=lambda manifest: manifest["finished"])
    return {**newest["versions"], "commit": newest["git_commit"]}
