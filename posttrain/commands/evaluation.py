"""Command `evaluate`: public benchmarks on a checkpoint, alone or as part of a run."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from posttrain.commands.output import only_results
from posttrain.core.errors import DataError
from posttrain.core.files import atomic_write, file_lock
from posttrain.core.model_files import check_model_dir, resolve
from posttrain.model_names import find_weights
from posttrain.runs import HARNESS, find_run, harness_rows

Row = dict[str, Any]


def evaluate(args: Namespace) -> None:
    """Run lm-evaluation-harness on a checkpoint, and keep its numbers in a folder or beside a run's win rates."""
    from posttrain.evaluate.harness import require_harness, run_harness, table

    require_harness()
    if args.run is None and args.out is None:
        raise DataError("evaluate needs --out DIR for its numbers, or --run RUN to put them beside a run's win rates")
    found = None if args.run is None else find_run(args.run, Path(args.root))
    if found is None:
        name, model_dir, artifact = args.model, resolve(args.model), None
    else:
        model, weights = find_weights(found, args.model)
        name, model_dir, artifact = model.name, weights.path, weights.reference
    check_model_dir(model_dir)
    for folder in [] if args.out is None else [Path(args.out)]:
        folder.mkdir(parents=True, exist_ok=True)  # a place that cannot be written should not cost the evaluation first
    with only_results():  # the harness prints, and that is no part of the table
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
