"""Commands that look at a run: report, verify, export; and chat with a checkpoint."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

from posttrain.core.errors import StorageError
from posttrain.runs import find_run


def report(args: Namespace) -> None:
    """Write the run's HTML page, or print the same as JSON."""
    from posttrain.commands.loop import write_report
    from posttrain.report.collect import collect

    found = find_run(args.run, Path(args.root))
    found.warn_of_lost()
    if args.json:
        print(json.dumps(collect(found), indent=1, ensure_ascii=False))
    else:
        print(write_report(found))


def verify(args: Namespace) -> None:
    """Compare every artifact's bytes with its manifest."""
    from posttrain.store.artifacts import ARTIFACTS, damaged_files

    found = find_run(args.run, Path(args.root))
    artifacts = {artifact.reference: artifact for _, artifact in found.artifacts()}
    faults = [f"{lost} is not there" for lost in found.lost]
    faults += [line for artifact in artifacts.values() for line in damaged_files(artifact)]
    if faults:
        raise StorageError(
            f"{len(faults)} faults in run {found.name}:\n  "
            + "\n  ".join(faults)
            + f"\nArtifacts were looked for in {found.store.root / ARTIFACTS}; --root names another place. Remove the "
            "damaged artifacts' folders and run the recipe again to have them made again"
        )
    num_files = sum(len(artifact.manifest["files"]) for artifact in artifacts.values() if artifact.manifest)
    print(f"{len(artifacts)} artifacts, {num_files} files: all as their manifests say")


def export(args: Namespace) -> None:
    """Copy a model of a run as a plain Hugging Face folder with a model card."""
    from posttrain.report.export import export_model

    print(export_model(find_run(args.run, Path(args.root)), args.model, Path(args.out)))


def chat(args: Namespace) -> None:
    """Talk to a checkpoint in the terminal."""
    from posttrain.core.model_files import check_model_dir

    check_model_dir(args.model)
    from posttrain.talk import talk

    talk(
        Path(args.model),
        temperature=args.temperature,
        top_p=args.top_p,
        max_completion_tokens=args.max_completion_tokens,
        seed=args.seed,
    )
