"""Verifiers in a run: the scores of a stage's rows, kept as they come."""

from __future__ import annotations

from typing import Any

from posttrain.config import VerifierAnnotator, VerifierJudge
from posttrain.stages import StageCall
from reward.verifiers.runner import run_verifier

Row = dict[str, Any]

JOURNAL = "verifier.journal.jsonl"


def verify_rows(call: StageCall, verifier: VerifierJudge | VerifierAnnotator, rows: list[Row]) -> list[Row]:
    """Score rows with a verifier; a stage that is stopped in between goes on from the rows that it has scored.

    The caller removes `JOURNAL` from its folder once the scores are written elsewhere.

    Raises:
        TooManyErrors: more rows failed than the verifier's `max_error_rate` allows.
    """
    return run_verifier(
        verifier.function,
        rows,
        timeout_s=verifier.timeout_s,
        max_error_rate=verifier.max_error_rate,
        memory_mb=verifier.memory_mb,
        options=verifier.options,
        workers=call.execution.workers,
        journal=call.out / JOURNAL,
    )
