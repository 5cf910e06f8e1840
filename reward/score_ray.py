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
from reward.noise import MOST_ROWS, Noise, noise_path, spread, write_noise
from reward.score_files import Progress, ScoreJob, ids_of, key_of, read_completions

# The prompts that a worker is given at a time, each with all its completions that have no score yet.
Groups = list[list[Row]]


@dataclass(frozen=True)
class NoiseRows:
    """Hold rows by which one worker measures the noise of a job, and the number of all rows of the job."""

    rows: list[Row]
    num_rows: int


Task = Groups | NoiseRows

# A task that killed its worker is cut into so many, until the prompt that does it stands alone.
PARTS = 8


@dataclass(frozen=True)
class OpenRewardModel:
    """Load the reward model in a worker, which must be the one whose hash stands in the results."""

    job: ScoreJob
    model: str

    def __call__(self, number: int, sharing: int, device: str) -> Callable[[Task], Iterator[Row | Noise]]:
        """Return what scores groups of rows, giving an entry of the journal for each row, or measures the noise."""
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
        return partial(_work, self.job, model, load_tokenizer(folder))


def score_over_ray(
    job: ScoreJob, address: str, num_workers: int, done: set[Any], progress: Progress | None = None
) -> None:
    """Score the rows whose keys are not in `done`, and journal the results as they arrive.

    A prompt whose rows killed two workers is journaled with a `drop_reason` in place of scores. Where the noise was not
    measured yet, a worker does that on some rows spread over the file, while the others score.

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
    tasks: list[Task] = list(deal(list(groups.values()), num_workers))
    if not noise_path(Path(job.out)).exists():
        chosen = spread([row["prompt_id"] for row in rows], MOST_ROWS)
        tasks.insert(0, NoiseRows([rows[index] for index in chosen], len(rows)))
    folder = os.path.abspath(job.reward_model)  # workers start in another folder
    opener = OpenRewardModel(replace(job, reward_model=folder), model_hash(folder))
    with (
        Journal(Path(job.out) / "journal" / "scores-ray.jsonl") as journal,
        RayPool[Task](address, num_workers, opener, job.device) as pool,
    ):

        def give_up(task: Task, reason: str) -> None:
            lost = [] if isinstance(task, NoiseRows) else [row for group in task for row in group]
            journal.append({**ids_of(row), "score": None, "drop_reason": reason} for row in lost)

        for results in pool.run(tasks, unscored, give_up):
            for noise in (result for result in results if isinstance(result, Noise)):
                write_noise(Path(job.out), noise)
            entries = [result for result in results if not isinstance(result, Noise)]
            journal.append(entries)
            finished += len(entries)
            if progress is not None:
                progress(finished, len(rows))


def unscored(task: Task, results: Sequence[Row | Noise], apart: bool) -> list[Task]:
    """Return the rows of a task without an entry, prompts whole, in up to `PARTS` tasks where `apart` is set."""
    if isinstance(task, NoiseRows):
        return [] if results else [task]
    done = {key_of(entry) for entry in results if not isinstance(entry, Noise)}
    left = [rest for group in task if (rest := [row for row in group if key_of(row) not in done])]
    size = max(-(-len(left) // (PARTS if apart else 1)), 1)
    return [left[start : start + size] for start in range(0, len(left), size)]


def _work(job: ScoreJob, model: Any, tokenizer: Any, task: Task) -> Iterator[Row | Noise]:
    from reward.score import RowEncoder, iter_scores, measure_noise

    encoder = RowEncoder(model, tokenizer, job.max_tokens, job.date)
    if isinstance(task, NoiseRows):
        yield measure_noise(task.rows, model, encoder, job.max_batch_tokens, task.num_rows)
        return
    rows = [row for group in task for row in group]
    for batch in iter_scores(rows, model, encoder, job.max_batch_tokens):
        for index, result in batch:
            yield {**ids_of(rows[index]), **result}
