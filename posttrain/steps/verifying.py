"""Verifiers in a run: the scores of a stage's rows, kept as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posttrain.config import VerifierAnnotator, VerifierJudge
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


def score_counts(scores: Sequence[float | None]) -> dict[str, Any]:
    """Count the scores of a stage for its metrics: rows, those that could not be judged (None), and the mean."""
    known = [score for score in scores if score is not None]
    return {
        "num_rows": len(scores),
        "num_errors": len(scores) - len(known),
        "mean_score": sum(known) / len(known) if known else None,
    }
