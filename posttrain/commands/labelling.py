"""Commands for people's labels: pairs go out blind, labels come back."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from posttrain.core.errors import DataError
from posttrain.core.files import atomic_write, read_rows, write_jsonl
from posttrain.runs import Run, find_run

_COMPLETIONS = "/eval/completions"


def pairs(args: Namespace) -> None:
    """Write pairs of answers for labelling, and the key to them."""
    from posttrain.evaluate.blind_pairs import make_pairs
    from posttrain.evaluate.compare import warn_missing
    from posttrain.evaluate.pairing import pair_rows

    if args.run is None:
        rows_a, rows_b = read_rows(args.a), read_rows(args.b)
    else:
        found = find_run(args.run, Path(args.root))
        rows_a, rows_b = held_out_completions(found, args.a), held_out_completions(found, args.b)
    pairing = pair_rows(rows_a, rows_b)
    warn_missing("A", pairing.missing_in_a)
    warn_missing("B", pairing.missing_in_b)
    shown, key = make_pairs(rows_a, rows_b, (args.a, args.b), args.seed, args.num_samples, args.num_pairs)
    if not shown:
        raise DataError(f"A and B wrote the same text for all {len(key)} prompts; there is nothing to label")
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    write_jsonl(out / "key.jsonl", key)
    write_jsonl(out / "pairs.jsonl", shown)
    print(f"{out / 'pairs.jsonl'}: {len(shown)} pairs to label, {len(key) - len(shown)} of the same text left out")
    print(f"{out / 'key.jsonl'}: says which model wrote which; keep it from whoever labels")


def held_out_completions(found: Run, model: str) -> list[dict[str, Any]]:
    """Read a model's answers to the held-out prompts of a run.

    Raises:
        DataError: the run has none of that model; those that it has are listed.
    """
    # The students' teacher is called teacher in ratings, wherever its answers stand.
    artifact = found.artifact(model + _COMPLETIONS) or found.artifact(f"students/{model}{_COMPLETIONS}")
    if artifact is None:
        names = [label.removesuffix(_COMPLETIONS) for label in found.record["names"] if label.endswith(_COMPLETIONS)]
        raise DataError(
            f"run {found.name} has no held-out answers of a model {model!r}; it has: {', '.join(names) or 'none'}"
        )
    return read_rows(artifact.path / "completions.jsonl")


def labels(args: Namespace) -> None:
    """Tell labels on blind pairs for A and B, and make preferences of them."""
    from posttrain.config import AnnotateConfig
    from posttrain.evaluate.pair_labels import preferences_of, read_choices, read_key, tell_for_models

    key = read_key(args.key)
    told, summary = tell_for_models(key, read_choices(args.labels))
    preferences = preferences_of(key, told, AnnotateConfig.model_fields["strengths"].default)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    write_jsonl(out / "labels.jsonl", told)
    write_jsonl(out / "preferences.jsonl", preferences)
    summary = {**summary, "preferences": len(preferences)}
    atomic_write(out / "summary.json", json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary, indent=1))
