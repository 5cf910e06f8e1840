"""The command trace: a row's way to the checkpoints, and a checkpoint's way back to its rows."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.core.errors import DataError, StorageError
from posttrain.lineage.graph import Graph
from posttrain.lineage.told import checkpoint_lines, story_lines
from posttrain.runs import find_run

BOLD, PLAIN = "\x1b[1m", "\x1b[0m"


def trace(args: Namespace) -> None:
    """Print a row's way through the run, or with --model what trained a checkpoint."""
    if args.model is None and (args.out is not None or args.text):
        raise DataError("--out and --text write the rows of a checkpoint; give it with --model, round_2 for example")
    if args.text and args.out is None:
        raise DataError("--text adds the texts to a file; give --out FILE.parquet too")
    graph = Graph(find_run(args.run, Path(args.root)))
    graph.run.warn_of_lost()
    try:
        told, lines = _row(graph, args.row_id) if args.model is None else _checkpoint(graph, args)
    except sqlite3.DatabaseError as error:
        folder = graph.run.store.root / "artifacts" / ".lineage"
        raise StorageError(
            f"an index in {folder} is damaged ({error}); remove that folder, trace builds it again"
        ) from error
    if args.json:
        print(json.dumps(told, indent=1, ensure_ascii=False))
    else:
        _print(lines)


def _row(graph: Graph, row_id: str) -> tuple[dict[str, Any], list[str]]:
    from posttrain.lineage.names import find_row
    from posttrain.lineage.story import tell_story

    prompt_id, sample_index = find_row(graph, row_id)
    story = tell_story(graph, prompt_id, sample_index)
    drawn = [sample for sampling in story["samplings"] for sample in sampling["samples"]]
    if sample_index is not None and not (drawn or story["trained"]):
        raise DataError(
            f"run {graph.run.name} has no sample {sample_index} of prompt '{prompt_id}'; "
            f"'{prompt_id}' alone tells of those there are"
        )
    return story, story_lines(story)


def _checkpoint(graph: Graph, args: Namespace) -> tuple[dict[str, Any], list[str]]:
    from posttrain.lineage.checkpoint import tell_checkpoint

    told = tell_checkpoint(graph, args.model)
    lines = checkpoint_lines(told)
    if args.out is not None:
        from posttrain.lineage.training_rows import write_training_rows

        written = write_training_rows(graph, args.model, Path(args.out), args.text)
        told["out"] = {"path": args.out, "answers": written}
        lines += ["", f"{written:,} answers, a row each: {args.out}"]
    return told, lines


def _print(lines: Sequence[str]) -> None:
    """Print lines; on a terminal headings stand out."""
    in_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for line in lines:
        print(f"{BOLD}{line}{PLAIN}" if in_colour and line and not line.startswith(" ") else line)
