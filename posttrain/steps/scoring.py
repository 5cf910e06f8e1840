"""Point 5 of a round: a score for every sample, then what SFT and DPO learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.config import SelectConfig
from posttrain.core.files import read_jsonl, write_jsonl
from posttrain.engines import device_of, use_threads
from posttrain.stages import StageCall
from reward.score_files import ScoreJob, score_with_workers
from reward.select import select_file


def score(call: StageCall) -> dict[str, Any]:
    """Score every completion with a reward model; a score does not depend on the batch it was computed in."""
    use_threads(call.execution)
    completions = one_file(call.inputs["completions"], call.out / "completions.jsonl")
    on_cluster = call.execution.ray_address is not None
    job = ScoreJob(
        reward_model=str(call.inputs["reward_model"]),
        completions=str(completions),
        out=str(call.out),
        max_batch_tokens=call.execution.max_batch_tokens,
        date=call.template_date,
        device=call.execution.device if on_cluster else device_of(call.execution),
    )
    summary = score_with_workers(job, call.execution.workers, call.progress, call.execution.ray_address)
    if completions.parent == call.out:
        completions.unlink()
    return summary


def one_file(folders: list[Path], merged: Path) -> Path:
    """Return the folders' completions as one file: the only one as it is, several written one after the other."""
    files = [folder / "completions.jsonl" for folder in folders]
    if len(files) == 1:
        return files[0]
    write_jsonl(merged, [row for file in files for _, row in read_jsonl(file)])
    return merged


def select_rows(call: StageCall, selection: SelectConfig, seed: int) -> dict[str, Any]:
    """Choose the best of K for SFT, and chosen and rejected for DPO."""
    return select_file(
        call.inputs["scored"] / "scored.jsonl",
        call.out,
        rule=selection.rule,
        margin=selection.margin,
        min_score=selection.min_score,
        num_pairs=selection.num_pairs,
        length_penalty=selection.length_penalty,
        seed=seed,
    )
