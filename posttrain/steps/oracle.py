"""Gold scores for a round's samples, where the evaluation has a verifier: what the report's best-of-K curve needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.config import VerifierJudge
from posttrain.core.files import read_jsonl, write_jsonl
from posttrain.stages import StageCall
from posttrain.steps.verifying import JOURNAL, score_counts, verify_rows
from reward.errors import TooManyErrors

KEY = ("prompt_id", "sample_index", "model")


def gold(
    call: StageCall, judge: VerifierJudge, content: str, num_prompts: int, max_error_rate: float
) -> dict[str, Any]:
    """Judge the samples of the first prompts with the verifier; nothing in the loop reads the result. Resumes.

    Prompts that a model wrote may be none that the verifier can judge (it may want a reference answer). That stops no
    run: the metrics say why, and the report leaves its gold curves out.

    Args:
        num_prompts: how many prompts; bounds what a slow verifier costs.
        max_error_rate: share of the samples that it may fail on; with more, the rest is left out.
    """
    rows = list(_first_prompts(call.inputs["scored"] / "scored.jsonl", num_prompts))
    failure = None
    try:
        judged = verify_rows(call, judge, rows, max_error_rate)
    except TooManyErrors as error:
        judged, failure = error.rows, str(error)
    kept = [{**{key: row.get(key) for key in KEY}, "gold": row["score"]} for row in judged]
    write_jsonl(call.out / "gold.jsonl", kept)
    (call.out / JOURNAL).unlink(missing_ok=True)
    # A verifier that stopped early left rows out: those count as asked, not as errors.
    return {**score_counts([{**row, "score": row["gold"]} for row in kept]), "num_rows": len(rows), "failure": failure}


def _first_prompts(path: Path, num_prompts: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of the first prompts of a file; a prompt's samples need not stand together."""
    taken: set[str] = set()
    for _, row in read_jsonl(path):
        if row["prompt_id"] not in taken:
            if len(taken) == num_prompts:
                continue
            taken.add(row["prompt_id"])
        yield row
