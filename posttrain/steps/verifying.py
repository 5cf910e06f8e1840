"""Verifiers in a run: the scores of a stage's rows, kept as they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.config import VerifierAnnotator, VerifierJudge
from posttrain.core.files import read_rows
from posttrain.stages import StageCall
from reward.verifiers.runner import run_verifier

Row = dict[str, Any]

JOURNAL = "verifier.journal.jsonl"


def verify_rows(
    call: StageCall,
    verifier: VerifierJudge | VerifierAnnotator,
    rows: list[Row],
    max_error_rate: float | None = None,
) -> list[Row]:
    """Score rows with a verifier; a stage that is stopped in between goes on from the rows that it has scored.

    The caller removes `JOURNAL` from its folder once the scores are written elsewhere.

    Args:
        max_error_rate: share of rows that may fail, where it is not the verifier's own.

    Raises:
        TooManyErrors: more rows failed than that.
    """
    settings = verifier.settings(call.execution.workers, max_error_rate)
    return run_verifier(verifier.function, rows, settings, call.out / JOURNAL)


def read_scored(folder: Path) -> list[Row]:
    """Read a stage's scored rows, and those that have no score (too long for a reward model), which stand apart."""
    rows, apart = read_rows(folder / "scored.jsonl"), folder / "rejects.jsonl"
    rejects = read_rows(apart) if apart.exists() else []
    return rows + [{**row, "score": None} for row in rejects if isinstance(row.get("prompt_id"), str)]


def score_counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Count the scores of a stage for its metrics: rows, those that could not be judged (None), and the mean.

    The mean is that of the prompts' means: a prompt counts once, however many of its samples could be judged.
    """
    by_prompt: dict[Any, list[float]] = {}
    for row in rows:
        if row.get("score") is not None:
            by_prompt.setdefault(row.get("prompt_id"), []).append(row["score"])
    means = [sum(scores) / len(scores) for scores in by_prompt.values()]
    return {
        "num_rows": len(rows),
        "num_errors": len(rows) - sum(map(len, by_prompt.values())),
        "mean_score": sum(means) / len(means) if means else None,
    }
