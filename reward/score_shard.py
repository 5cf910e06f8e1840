"""The part of a scoring run that one process does: load the reward model, score, journal."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from posttrain.core.chat import load_tokenizer
from posttrain.core.files import Journal, read_jsonl_lenient
from posttrain.core.models import load_reward_model
from reward.noise import noise_path, write_noise
from reward.score import Progress, RowEncoder, iter_scores, measure_noise
from reward.score_files import Key, ScoreJob, ids_of, key_of, read_completions


def score_shard(job: ScoreJob, shard: int, num_shards: int, progress: Progress | None) -> None:
    """Score the rows of one shard that no journal holds, and journal them batch by batch."""
    device = job.device
    if num_shards > 1:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // num_shards))
        if device == "cuda":
            device = f"cuda:{shard % torch.cuda.device_count()}"
    journals = Path(job.out) / "journal"
    rows, _, _ = read_completions(job.completions)
    shards = shards_of(rows, num_shards)
    mine = [row for row in rows if shards[row["prompt_id"]] == shard]
    done = _journaled_keys(journals)
    missing = [row for row in mine if key_of(row) not in done]
    if not missing:
        return
    tokenizer = load_tokenizer(job.reward_model)
    model = load_reward_model(job.reward_model, dtype=job.dtype, device=device)
    encoder = RowEncoder(model, tokenizer, job.max_tokens, job.date)
    encoder.encode(missing)  # before the measurement, which looks at all rows but keeps none
    if shards[rows[0]["prompt_id"]] == shard and not noise_path(Path(job.out)).exists():
        # One process does it, before it scores, over the rows of all: the number depends neither on who nor on when.
        write_noise(Path(job.out), measure_noise(rows, model, encoder, job.max_batch_tokens))
    finished = len(mine) - len(missing)
    with Journal(journals / f"scores-{shard}.jsonl") as journal:
        for batch in iter_scores(missing, model, encoder, job.max_batch_tokens):
            journal.append({**ids_of(missing[index]), **result} for index, result in batch)
            finished += len(batch)
            if progress is not None:
                progress(finished, len(mine))


def shards_of(rows: Iterable[Mapping[str, Any]], num_shards: int) -> dict[str, int]:
    """Deal prompts out to shards in turn, so that the completions of a prompt meet in one worker."""
    names = dict.fromkeys(row["prompt_id"] for row in rows)
    return {name: place % num_shards for place, name in enumerate(names)}


def _journaled_keys(journals: Path) -> set[Key]:
    """Read the keys in all journals; other workers are writing theirs, so a torn last line is left alone."""
    keys: set[Key] = set()
    for path in journals.glob("*.jsonl"):
        keys.update(key_of(entry) for _, entry in read_jsonl_lenient(path) if not isinstance(entry, str))
    return keys
