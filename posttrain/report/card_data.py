"""What a run says of one model: its names, its win rates, and the metadata that the hub reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from posttrain.core.errors import DataError
from posttrain.kept import best_of
from posttrain.report.blocks import is_number, plain_text
from posttrain.report.drift import harness_settings
from posttrain.report.judged import both_ways, judges_of, model_order, resolved_recipe, shown_model

Run = Mapping[str, Any]


def best_model(run: Run) -> str:
    """Name the model of the newest promoted round, or the base where none was promoted."""
    return best_of(run.get("rounds") or [])


def recipe_name(run: Run) -> str:
    """Name the recipe of a run."""
    recipe = run.get("recipe")
    return str(recipe.get("name", "run") if isinstance(recipe, Mapping) else recipe or "run")


def base_of(run: Run) -> Mapping[str, Any]:
    """Give the recipe's section on the base; empty where it is not known."""
    base = resolved_recipe(run).get("base")
    return base if isinstance(base, Mapping) else {}


def names_of(run: Run, model: str) -> set[str]:
    """Give the names under which the run's comparisons know a model."""
    students = {str(student.get("name")) for student in run.get("students") or []}
    return {model, f"students/{model}"} if model in students else {model}


def front_matter(run: Run, model: str) -> str:
    """Write the hub's metadata: library, base, and what was measured as a model-index."""
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="held-out-prompts",
            dataset_name=f"held-out prompts of {recipe_name(run)}",
            metric_type="win_rate",
            metric_name=plain_text(f"win rate over {against}" + (f" by {judge}" if judge else "")),
            metric_value=result["win_rate"],
        )
        for against, judge, result in measured(run, model)
    ] + [
        EvalResult(
            task_type="text-generation",
            dataset_type=str(entry["task"]),
            dataset_name=str(entry["task"]),
            metric_type=str(entry["metric"]),
            metric_name=f"{entry['metric']} ({asked})" if (asked := harness_settings(entry)) else None,
            metric_value=entry["value"],
        )
        for entry in run.get("harness") or []
        if entry.get("model") in names_of(run, model) and is_number(entry.get("value"))
    ]
    data = ModelCardData(
        library_name="transformers",
        tags=["posttrain"],
        base_model=base_of(run)["repo"] if base_of(run).get("kind") == "hub" else None,
        model_name=plain_text(f"{recipe_name(run)}-{model}") if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def measured(run: Run, model: str) -> list[tuple[str, str, Mapping[str, Any]]]:
    """List a model's win rates: over whom, by which judge, and what came out.

    From the matrix, which has every pair by every judge; of an older run from its rounds and students.
    """
    found: list[tuple[str, str, Mapping[str, Any]]] = []
    entries = run.get("matrix") or []
    for judge in judges_of(run):
        pairs = both_ways([entry for entry in entries if entry.get("judge") == judge.name])
        loud = f"{judge.name} (TRAINED AGAINST)" if judge.trained_against else judge.name
        own = names_of(run, model)
        against = [model for model in model_order(run) if model not in own]
        met = {b: entry for (a, b), entry in pairs.items() if a in own}
        found += [(shown_model(other), loud, met[other]) for other in against if other in met]
    if found:
        return found
    entry = round_of(run, model) or {}
    sides = [("base", entry.get("win_rate_vs_base")), ("the best round before", entry.get("win_rate_vs_previous"))]
    for student in run.get("students") or []:
        if student.get("name") == model:
            sides += [
                ("its own base", student.get("win_rate_vs_own_base")),
                ("its teacher", student.get("win_rate_vs_teacher")),
            ]
    return [(against, "", result) for against, result in sides if result and is_number(result.get("win_rate"))]


def round_of(run: Run, model: str) -> Mapping[str, Any] | None:
    """Give a round's entry, None for a model that is none; refuse a round that the run has not."""
    if not model.startswith("round_") or "/" in model:  # round_1/sft is a checkpoint on the way
        return None
    for entry in run.get("rounds") or []:
        if f"round_{entry.get('round')}" == model:
            return entry
    there = ", ".join(f"round_{entry.get('round')}" for entry in run.get("rounds") or []) or "none yet"
    raise DataError(f"the run has no {model!r}; its rounds: {there}")
