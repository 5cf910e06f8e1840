"""Command `evaluate`: public benchmarks on a checkpoint, alone or as part of a run."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from posttrain.core.errors import DataError
from posttrain.core.files import atomic_write, file_lock
from posttrain.core.model_files import check_model_dir, resolve
from posttrain.runs import HARNESS, Run, find_run, harness_rows, reference_of

Row = dict[str, Any]


def evaluate(args: Namespace) -> None:
    """Run lm-evaluation-harness on a checkpoint, and keep its numbers in a folder or beside a run's win rates."""
    from posttrain.evaluate.harness import require_harness, run_harness, table

    require_harness()
    if args.run is None and args.out is None:
        raise DataError("evaluate needs --out DIR for its numbers, or --run RUN to put them beside a run's win rates")
    found = None if args.run is None else find_run(args.run, Path(args.root))
    name, model_dir = (args.model, resolve(args.model)) if found is None else _model_of(found, args.model)
    check_model_dir(model_dir)
    for folder in [] if args.out is None else [Path(args.out)]:
        folder.mkdir(parents=True, exist_ok=True)  # a place that cannot be written should not cost the evaluation first
    artifact = None if found is None else reference_of(found, name)
    with redirect_stdout(sys.stderr):  # the harness prints, and that is no part of the table
        rows = run_harness(model_dir, name, _job(args), artifact)
    if args.out is not None:
        _keep(Path(args.out) / HARNESS, rows)
    if found is not None:
        _keep(found.folder / HARNESS, rows)
    print(json.dumps(rows, indent=1) if args.json else table(rows))


def _job(args: Namespace) -> Any:
    from posttrain.config import Execution
    from posttrain.engines import device_of
    from posttrain.evaluate.harness import HarnessJob

    return HarnessJob(
        tasks=[task for task in args.harness.split(",") if task],
        include_path=None if args.include_path is None else Path(args.include_path),
        limit=args.limit,
        num_fewshot=args.num_fewshot,
        chat_template=args.chat_template,
        batch_size=args.batch_size,
        dtype=args.dtype,
        device=device_of(Execution(device=args.device)),
        seed=args.seed,
    )


def _keep(path: Path, rows: list[Row]) -> None:
    """Add rows to those that the folder has; two commands at once lose nothing."""
    from posttrain.evaluate.harness import merge_rows

    with file_lock(path.with_name(f".{path.name}.lock")):
        merged = merge_rows(harness_rows(path.parent), rows)
        atomic_write(path, json.dumps(merged, indent=1) + "\n")


def _model_of(found: Run, name: str) -> tuple[str, Path]:
    """Return a run's model by the name that its report uses, and its folder; `best` is called what it is.

    Raises:
        DataError: the run has no such model, or it is not finished.
    """
    labels = {"base": "base/model", "teacher": "teacher", "best": "best"}
    for number in range(1, found.num_rounds + 1):
        labels |= {f"round_{number}": f"round_{number}/policy", f"round_{number}/sft": f"round_{number}/sft"}
    for student in found.recipe["students"]:
        label = f"students/{student['name']}"
        labels |= {label: f"{label}/policy", student["name"]: f"{label}/policy"}
    if name not in labels:
        raise DataError(f"run {found.name} has no model '{name}'; there are: {', '.join(labels)}")
    artifact = found.artifact(labels[name])
    if artifact is None:
        raise DataError(f"model '{name}' of run {found.name} is not there yet: run the recipe again to go on")
    if name == "best":
        same = (other for other in labels if other != "best" and _is(found, labels[other], artifact.path))
        name = next(same, name)
    elif f"students/{name}" in labels:
        name = f"students/{name}"
    return name, artifact.path


def _is(found: Run, label: str, path: Path) -> bool:
    artifact = found.artifact(label)
    return artifact is not None and artifact.path == path
