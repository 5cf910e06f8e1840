"""Scoring by the workers of a Ray cluster, an optional extra; this process alone writes the journal."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from posttrain.core.errors import ModelError
from posttrain.core.files import Journal
from posttrain.core.model_files import model_hash
from posttrain.core.ray_pool import RayPool
from posttrain.core.ray_queue import deal
from reward.ids import Row
from reward.score_files import Progress, ScoreJob, ids_of, key_of, read_completions

# The prompts that a worker is given at a time, each with all its completions that have no score yet.
Groups = list[list[Row]]

# A task that killed its worker is cut into so many, until the prompt that does it stands alone.
PARTS = 8


@dataclass(frozen=True)
class OpenRewardModel:
    """Load the reward model in a worker, which must be the one whose hash stands in the results."""

    job: ScoreJob
    model: str

    def __call__(self, number: int, sharing: int, device: str) -> Callable[[Groups], Iterator[Row]]:
        """Return what scores groups of rows, giving an entry of the journal for each row."""
        # Here, not above: the driver needs no torch.
        import torch

        from posttrain.core.chat import load_tokenizer
        from posttrain.core.models import load_reward_model

        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // sharing))
        folder = self.job.reward_model
        node = socket.gethostname()
        try:
            found = model_hash(folder)
        except ModelError as error:
            raise ModelError(
                f"node {node}: {error} - a model folder must be readable at the same path on every node: mount or "
                "copy it there"
            ) from error
        if found != self.model:
            raise ModelError(
                f"node {node}: the files in {folder} are another model ({found}, expected {self.model}) - copy it "
                "there anew"
            )
        model = load_reward_model(folder, dtype=self.job.dtype, device=device)
        return partial(_score, self.job, model, load_tokenizer(folder))


def score_over_ray(
    job: ScoreJob, address: str, num_workers: int, done: set[Any], progress: Progress | None = None
) -> None:
    """Score the rows whose keys are not in `done`, and journal the results as they arrive.

    A prompt whose rows killed two workers is journaled with a `drop_reason` in place of scores.

    Raises:
        ClusterError: there is no cluster, or its workers keep dying; what was scored is kept.
        ModelError: a node cannot read the model, or reads another.
    """
    rows, _, _ = read_completions(job.completions)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if key_of(row) not in done:
            groups.setdefault(row["prompt_id"], []).append(row)
    finished = len(rows) - sum(map(len, groups.values()))
    folder = os.path.abspath(job.reward_model)  # workers start in another folder
    opener = OpenRewardModel(replace(job, reward_model=folder), model_hash(folder))
    with (
        Journal(Path(job.out) / "journal" / "scores-ray.jsonl") as journal,
        RayPool[Groups](address, num_workers, opener, job.device) as pool,
    ):

        def give_up(task: Groups, reason: str) -> None:
            journal.append({**ids_of(row), "score": None, "drop_reason": reason} for group in task for row in group)

        for entries in pool.run(list(deal(list(groups.values()), num_workers)), unscored, give_up):
            journal.append(entries)
            finished += len(entries)
            if progress is not None:
                progress(finished, len(rows))


def unscored(task: Groups, entries: Sequence[Row], apart: bool) -> list[Groups]:
    """Return the rows of a task without an entry, prompts whole, in up to `PARTS` tasks where `apart` is set."""
    done = {key_of(entry) for entry in entries}
    left = [rest for group in task if (rest := [row for row in group if key_of(row) not in done])]
    size = max(-(-len(left) // (PARTS if apart else 1)), 1)
    return [left[start : start + size] for start in range(0, len(left), size)]


def _score(job: ScoreJob, model: Any, tokenizer: Any, task: Groups) -> Iterator[Row]:
    from reward.score import RowEncoder, iter_scores

    rows = [row for group in task for row in group]
    encoder = RowEncoder(model, tokenizer, job.max_tokens, job.date)
    for batch in iter_scores(rows, model, encoder, job.max_batch_tokens):
        for index, result in batch:
            yield {**ids_of(rows[index]), **result}
