"""Compare two models by a verifier, with its options in the judge's name: `verifier:number?tolerance=0.01`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.core.errors import DataError
from posttrain.core.files import write_jsonl
from posttrain.evaluate.pairing import pair_scores
from posttrain.functions import check_verifier
from reward.verifiers.runner import run_verifier
from reward.verifiers.settings import parse_verifier

Row = dict[str, Any]


def compare_by_verifier(
    rows_a: list[Row],
    rows_b: list[Row],
    verifier: str,
    out: Path | None = None,
    names: tuple[str, str] = ("A", "B"),
) -> list[Row]:
    """Let a verifier's score decide; equal scores tie, and an answer that it failed on has no say.

    Args:
        verifier: a name, as `reward.verifiers.settings.parse_verifier` reads it.
        out: folder for `scored_a.jsonl` and `scored_b.jsonl`, with reasons and errors. Where the verifier is stopped,
            what it has scored stays there, and the same call goes on from it.
        names: what the rows of A and of B are, for messages; with their files for example.

    Raises:
        DataError: the verifier, or a value of its options, cannot be used; seen before anything runs.
        RewardError: the verifier cannot be imported, or rows cannot go to it.
        TooManyErrors: it failed on too many rows of a side.
    """
    function, settings = parse_verifier(verifier)
    try:
        check_verifier(function, settings.options)
    except DataError as error:
        raise DataError(f"judge 'verifier:{verifier}': {error}") from error
    scored: list[list[Row]] = []
    journals = [None if out is None else out / f"verifier_{side}.journal.jsonl" for side in ("a", "b")]
    for rows, journal, name in zip((rows_a, rows_b), journals, names, strict=True):
        scored.append(run_verifier(function, rows, settings, journal, f"the rows of {name}"))
    for side, rows, journal in zip(("a", "b"), scored, journals, strict=True):
        if out is not None and journal is not None:
            write_jsonl(out / f"scored_{side}.jsonl", rows)
            journal.unlink()
    return pair_scores(scored[0], scored[1])
