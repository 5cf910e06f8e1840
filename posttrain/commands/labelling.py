"""Commands for people's labels: pairs go out blind, labels come back."""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from posttrain.core.errors import DataError
from posttrain.core.files import atomic_write, read_rows, write_jsonl
from posttrain.model_names import find_answers
from posttrain.runs import find_run

Row = dict[str, Any]

log = logging.getLogger(__name__)

LEFT_OUT = {
    "unknown": "labels are on pairs that the key does not have, and are left out; give the key of all of them",
    "repeated": "labels repeat a pair by the same labeller, and the last counts; tell people apart by `labeller`",
    "missing": "pairs of the key have no label",
}
"""Counts of a summary that a person should hear of."""


def pairs(args: Namespace) -> None:
    """Write pairs of answers for labelling, and the key to them."""
    from posttrain.evaluate.blind_pairs import make_pairs
    from posttrain.evaluate.compare import warn_missing
    from posttrain.evaluate.pairing import check_completions, pair_rows

    if args.run is None:
        names, paths = (args.a, args.b), [Path(args.a), Path(args.b)]
    else:
        found = find_run(args.run, Path(args.root))
        models, answers = zip(*(find_answers(found, typed) for typed in (args.a, args.b)), strict=True)
        # The key says what the run's matrices say, whatever was typed: a labels judge goes by these names.
        names, paths = (models[0].name, models[1].name), [artifact.path / "completions.jsonl" for artifact in answers]
    rows_a, rows_b = (read_rows(path) for path in paths)
    sides = (f"A ({paths[0]})", f"B ({paths[1]})")
    for rows, side in zip((rows_a, rows_b), sides, strict=True):
        check_completions(rows, side)
    pairing = pair_rows(rows_a, rows_b, sides)
    warn_missing(sides[0], pairing.missing_in_a)
    warn_missing(sides[1], pairing.missing_in_b)
    _warn_of_surplus(pairing.prompts, args.num_samples)
    shown, key = make_pairs(rows_a, rows_b, names, args.seed, args.num_samples, args.num_pairs)
    if not shown:
        raise DataError(f"A and B wrote the same text for all {len(key)} prompts; there is nothing to label")
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    if (out / "key.jsonl").exists() and read_rows(out / "key.jsonl") != key:
        raise DataError(
            f"{out / 'key.jsonl'} is the key of other pairs, and their labels could not be told without it; "
            "give another --out"
        )
    write_jsonl(out / "key.jsonl", key)
    write_jsonl(out / "pairs.jsonl", shown)
    print(f"{out / 'pairs.jsonl'}: {len(shown)} pairs to label, {len(key) - len(shown)} of the same text left out")
    print(f"{out / 'key.jsonl'}: says which model wrote which; keep it from whoever labels")


def _warn_of_surplus(prompts: Iterable[tuple[str, Sequence[Row], Sequence[Row]]], num_samples: int) -> None:
    """Say how many of the samples that were asked for have no partner on the other side."""
    surplus = [0, 0]
    for _, of_a, of_b in prompts:
        more = min(len(of_a), num_samples) - min(len(of_b), num_samples)
        surplus[more < 0] += abs(more)
    if any(surplus):
        log.warning("%d samples of A and %d of B have no partner on the other side and are left out", *surplus)


def labels(args: Namespace) -> None:
    """Tell labels on blind pairs for A and B, and make preferences of them."""
    from posttrain.config import AnnotateConfig
    from posttrain.evaluate.pair_labels import check_texts, preferences_of, read_choices, read_key, tell_for_models

    key, choices = read_key(args.key), read_choices(args.labels)
    check_texts(key, choices, args.labels)
    told, summary = tell_for_models(key, choices)
    preferences = preferences_of(key, told, AnnotateConfig.model_fields["strengths"].default)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    write_jsonl(out / "labels.jsonl", told)
    write_jsonl(out / "preferences.jsonl", preferences)
    summary = {**summary, "preferences": len(preferences)}
    for column, told_of in LEFT_OUT.items():
        if summary[column]:
            log.warning("%s: %d %s", args.labels, summary[column], told_of)
    atomic_write(out / "summary.json", json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary, indent=1))
