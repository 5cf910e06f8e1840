"""Commands on whole runs: run, plan, why."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from posttrain.core.errors import DataError
from posttrain.recipe import Recipe
from posttrain.runs import LOCK, Run, find_run
from posttrain.store.artifacts import ArtifactStore


def run(args: Namespace) -> None:
    """Run what is not there yet, and end with the table of rounds and the path of the report."""
    from posttrain.core.files import file_lock, is_locked
    from posttrain.kept import table_of_rounds
    from posttrain.notes import notes
    from posttrain.preflight import load_checked_recipe
    from posttrain.rounds import run_recipe
    from posttrain.runner import Executor, state_after
    from posttrain.sources import fetch_models
    from posttrain.watch import LiveWatcher

    started = time.time()
    recipe = load_checked_recipe(args.recipe, args.overrides)
    root = Path(args.root)
    run_dir = root / "runs" / recipe.name
    if is_locked(run_dir / LOCK):
        print(f"another command is running {recipe.name} in {root}; waiting for it to end", file=sys.stderr, flush=True)
    with file_lock(run_dir / LOCK):
        fetch_models(recipe)
        planned, _ = plan_recipe(recipe, root)  # where drift stops the run, it says so below, on its record
        store = ArtifactStore(root)
        watcher = LiveWatcher(planned, store, run_dir)
        executor = Executor(store, run_dir, recipe, watcher)
        executor.record.begin(recipe, planned)
        executor.record.keep_text(Path(args.recipe), args.overrides)
        try:
            run_recipe(recipe, executor)
        except BaseException as error:
            executor.record.end(state_after(error))
            raise
        executor.record.end("finished")
        finished = find_run(recipe.name, root)
        executor.record.report(lambda: write_report(finished), run_dir / "report.html")
    print("\n".join([table_of_rounds(finished), "", *notes(finished)]))
    num_run = watcher.position - watcher.num_hits
    print(f"\n{num_run} of {watcher.position} stages run, {watcher.num_hits} reused, {time.time() - started:.1f} s")
    print(f"report: {run_dir / 'report.html'}")


def write_report(found: Run) -> Path:
    """Write the run's HTML page."""
    from posttrain.core.files import atomic_write
    from posttrain.report.build import build_report
    from posttrain.report.collect import collect

    path = found.folder / "report.html"
    atomic_write(path, build_report(collect(found)))
    return path


def plan_stages(recipe: Recipe, root: Path) -> list[dict[str, Any]]:
    """Return every stage of a recipe as hit or run; a gate that has not decided yet is taken to promote."""
    return plan_recipe(recipe, root)[0]


def plan_recipe(recipe: Recipe, root: Path) -> tuple[list[dict[str, Any]], str | None]:
    """Return a recipe's stages, and why a run would stop after them: a policy of an earlier run may have drifted."""
    from posttrain.comparisons import DriftError
    from posttrain.rounds import run_recipe
    from posttrain.runner import Planner

    planner = Planner(ArtifactStore(root), recipe.template_date)
    try:
        run_recipe(recipe, planner)
    except DriftError as error:
        return planner.stages, str(error)
    return planner.stages, None


def plan(args: Namespace) -> None:
    """Print every stage as hit or run, with counts of rows and tokens."""
    from posttrain.estimate import estimate
    from posttrain.preflight import load_checked_recipe

    recipe = load_checked_recipe(args.recipe, args.overrides)
    stages, stop = plan_recipe(recipe, Path(args.root))
    rows = estimate(stages)
    if args.json:
        print(json.dumps({"recipe": recipe.name, "stages": rows} | ({"stop": stop} if stop else {}), indent=1))
        return
    label_width = max(len(row["label"]) for row in rows)
    address_width = max(len(f"{row['stage']}/{row['address']}") for row in rows)
    for row in rows:
        bound = "" if row["status"] == "hit" else "≤ "
        rows_told, tokens = _count(row["rows"], bound), _count(row["tokens"], bound)
        counts = f"{rows_told:>11} rows {tokens:>14} tokens"
        address = f"{row['stage']}/{row['address']}"
        print(f"{row['status']:<4} {row['label']:<{label_width}} {address:<{address_width}} {counts}")
    hits = sum(row["status"] == "hit" for row in rows)
    print(
        f"{len(rows)} stages: {hits} hit, {len(rows) - hits} to run. Counts of stages to run are upper bounds (≤): "
        "near ties, answers that are cut and rows that are dropped are not known before."
    )
    if stop:
        print(f"The run stops there: {stop}")


def _count(number: int | None, bound: str = "") -> str:
    return "–" if number is None else f"{bound}{number:,}"


def why(args: Namespace) -> None:
    """Print which fields made a stage of a run differ from the nearest artifact of the same stage."""
    found = find_run(args.run, Path(args.root))
    rows = [row for row in found.record["stages"] if args.stage in (row["label"], row["stage"])]
    if not rows:
        labels = ", ".join(row["label"] for row in found.record["stages"])
        raise DataError(f"run {found.name} has no stage '{args.stage}'; it has: {labels}")
    told: set[str] = set()
    for row in rows:
        _explain(found, row, "", told)


def _explain(found: Run, row: dict[str, Any], indent: str, told: set[str]) -> None:
    reference = f"{row['stage']}/{row['address']}"
    if reference in told:
        print(f"{indent}{row['label']}: {reference}, see above")
        return
    told.add(reference)
    artifact = found.store.find_address(row["stage"], row["address"])
    if artifact.manifest is None:
        print(f"{indent}{row['label']}: {reference} is not finished")
        return
    own = {other["address"] for other in found.record["stages"]}  # other rounds of this run explain nothing
    nearest = found.store.nearest(artifact.manifest["asked"], besides=own)
    print(f"{indent}{row['label']}: {reference} ({row['status']} in the latest command)")
    if nearest is None:
        print(f"{indent}  there is no artifact of stage {row['stage']} outside this run: nothing to compare with")
        return
    address, changed = nearest
    print(f"{indent}  nearest other artifact: {row['stage']}/{address}; fields that differ:")
    for path, old, new in changed:
        print(f"{indent}    {path}: {json.dumps(old)} → {json.dumps(new)}")
    inputs = {new for path, _, new in changed if path.startswith("inputs.") and isinstance(new, str)}
    for other in found.record["stages"]:
        if f"{other['stage']}/{other['address']}" in inputs:
            inputs.discard(f"{other['stage']}/{other['address']}")
            _explain(found, other, indent + "    ", told)
