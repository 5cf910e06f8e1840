"""Reward models: Bradley-Terry on preference pairs and rankings.

Shapes: B pairs (2B rows: the chosen ones, then the rejected ones), T positions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trl
from datasets import Dataset
from torch import Tensor, nn

from posttrain.config import Execution, RewardModelConfig
from posttrain.core.atomic import atomic_write
from posttrain.core.chat import load_tokenizer
from posttrain.core.errors import DataError, Faults
from posttrain.core.formats import normalize_prompt, prompt_id
from posttrain.core.models import check_model_dir, load_reward_model
from posttrain.train.batches import pad_rows, split_fillers
from posttrain.train.fingerprint import fingerprint
from posttrain.train.forward import scores_at
from posttrain.train.kinds import Progress, check_training_rows
from posttrain.train.launch import launch, needs_launch
from posttrain.train.loop import Batch, ExactTrainer
from posttrain.train.losses import STRENGTH_MARGINS, bradley_terry_losses, centering_losses
from posttrain.train.pairs import PairCollator, tokenize_pairs
from posttrain.train.shared import tokenized
from posttrain.train.start import starting_reward_model
from posttrain.train.trainer import (
    DEFAULT_EXECUTION,
    Job,
    lora_arguments,
    make_loader,
    plan_steps,
    run,
    training_arguments,
)
from reward.agreement import reward_model_report
from reward.preferences import rankings_to_pairs
from reward.score import score_pairs

Row = dict[str, Any]


def train_reward_model(
    model_dir: str | Path,
    rows: Iterable[Mapping[str, Any]],
    out_dir: str | Path,
    config: RewardModelConfig,
    seed: int,
    execution: Execution = DEFAULT_EXECUTION,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a reward model, write it to a folder, and measure it on prompts it has not seen.

    Args:
        model_dir: folder of any language model (a new score head is drawn) or of a reward model (its head is kept).
        rows: rows with `prompt`, `chosen`, `rejected` (and `strength`), or `prompt`, `completions` best first; a
            ranking counts as all of its pairs.
        out_dir: receives the model, metrics.jsonl and report.json.
        seed: the run's seed; `config.seed` wins.
        progress: called with (steps done, steps in all).

    Returns:
        Counts of rows, `accuracy` on the held-out prompts (None where nothing is held out could be scored), the last
        logged metrics of training under `train/…`, and the time.

    Raises:
        DataError: rows that cannot be used, all of them listed, before weights are loaded.
        TrainError: the run would be, or went, wrong.
    """
    job = Job(Path(model_dir), Path(out_dir), config, seed, execution, progress)
    rows = list(rows)
    pairs = expand(rows, needs_strength=config.margin)
    check_model_dir(job.model_dir)
    tokenizer = load_tokenizer(job.model_dir)
    pairs, held_out = split_by_prompt(pairs, config.held_out)
    dataset, intake = tokenized(lambda: tokenize_pairs(pairs, tokenizer, config, mask_format_tokens=False))
    if needs_launch(execution):
        tokens = (dataset, intake)
        return launch("reward_model", model_dir, None, rows, out_dir, config, seed, execution, progress, tokens)
    job.seed_everything()
    model = starting_reward_model(job)
    plan = plan_steps(len(dataset), config)
    trainer = RewardTrainer(
        model=model,
        args=training_arguments(trl.RewardConfig, job, plan, max_length=None),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=lora_arguments(job, "SEQ_CLS"),
    )
    margins = [margin_of(pairs[row]) for row in dataset["row"][:]] if config.margin else None
    collate = ScorePairCollator(dataset, tokenizer.pad_token_id, margins)
    trainer.prepare_loop(config, make_loader(job, plan, collate.lengths, collate))
    identity = {**fingerprint(dataset), "margins": margins}
    trained = run(job, trainer, tokenizer, intake, identity, collate.probe())
    if not trainer.is_world_process_zero():
        return _apart(trained)
    return {**_apart(trained), **report_on(held_out, job, tokenizer)}


def expand(rows: Iterable[Mapping[str, Any]], needs_strength: bool = False) -> list[Row]:
    """Check rows and turn each ranking into its pairs.

    Raises:
        DataError: lists rows of the wrong form, or, where margins are asked for, pairs without a known strength.
    """
    given: list[Row] = [dict(row) for row in rows]
    check_training_rows("reward_model", given)
    rankings = [row for row in given if "completions" in row]
    pairs = [row for row in given if "completions" not in row] + rankings_to_pairs(rankings)
    if needs_strength:
        faults = Faults("training rows")
        for number, pair in enumerate(pairs, start=1):
            if pair.get("strength") not in STRENGTH_MARGINS:
                known = ", ".join(STRENGTH_MARGINS)
                faults.add(f"pair {number}: strength is {pair.get('strength')!r}, expected one of {known}")
        faults.raise_if_any(DataError)
    return pairs


def margin_of(pair: Mapping[str, Any]) -> float:
    """Return the margin of a pair by its strength (Llama 2, table 27, small margins)."""
    return STRENGTH_MARGINS[pair["strength"]]


def split_by_prompt(pairs: list[Row], share: float) -> tuple[list[Row], list[Row]]:
    """Hold out all pairs of a share of the prompts.

    Prompts are ordered by a hash of their id, so that a prompt held out in one round mostly is in the next, whatever
    was added.

    Returns:
        The pairs to train on and those held out, at least one prompt each where there are two.

    Raises:
        DataError: only one prompt.
    """
    ids = [str(pair.get("prompt_id") or prompt_id(normalize_prompt(pair["prompt"]))) for pair in pairs]
    order = sorted(set(ids), key=lambda name: blake2b(name.encode(), digest_size=8).digest())
    if len(order) < 2:
        raise DataError(f"a reward model needs pairs of at least 2 prompts to be measured, got {len(order)}.")
    held = set(order[: max(1, math.floor(share * len(order)))])
    kept = [pair for pair, name in zip(pairs, ids, strict=True) if name not in held]
    return kept, [pair for pair, name in zip(pairs, ids, strict=True) if name in held]


def report_on(held_out: list[Row], job: Job, tokenizer: Any) -> dict[str, Any]:
    """Score the held-out pairs with the model as it was saved, and write report.json."""
    model = load_reward_model(job.out_dir, device=job.device)
    scored, unscored = score_pairs(
        held_out, model, tokenizer, job.execution.max_batch_tokens, job.config.max_tokens, job.config.template_date
    )
    report = reward_model_report(scored) if scored else {"accuracy": None, "num_pairs": 0}
    report["num_unscored"] = len(unscored)
    atomic_write(job.out_dir / "report.json", json.dumps(report, indent=2, ensure_ascii=False))
    return {"accuracy": report["accuracy"], "num_held_out": len(held_out)}


def _apart(trained: dict[str, Any]) -> dict[str, Any]:
    """Put the metrics of the last training batch under train/, so that none is taken for the held-out one."""
    own = ("accuracy", "margin", "min_reward", "mean_reward", "max_reward", "loss")
    return {(f"train/{name}" if name in own else name): value for name, value in trained.items()}


class ScorePairCollator(PairCollator):
    """Pad pairs, chosen above rejected, and note where each row ends.

    Args:
        margins: margin of each pair, or None for no margins.
    """

    def __init__(self, dataset: Dataset, pad_id: int, margins: list[float] | None = None) -> None:
        super().__init__(dataset, pad_id)
        self._margins = None if margins is None else np.asarray(margins, dtype=np.float32)

    def __call__(self, numbers: list[int]) -> Batch:
        rows, weights_B = split_fillers(numbers)
        sequences = self.sequences(rows)
        batch: Batch = {
            "input_ids": torch.from_numpy(pad_rows(sequences, self.pad_id)),
            "last": torch.tensor([len(sequence) - 1 for sequence in sequences]),
            "weights": torch.from_numpy(weights_B),
            "counts": torch.tensor([weights_B.sum()]),
            "rows": [self.numbers[row] for row in rows],
            "num_tokens": int((self.num_tokens[rows] * weights_B).sum()),
        }
        if self._margins is not None:
            batch["margin"] = torch.from_numpy(self._margins[rows])
        return batch


class RewardTrainer(ExactTrainer, trl.RewardTrainer):
    """TRL's trainer with scores read at the true end of each row, and a mean over the global batch."""

    def prepare_loop(self, config: RewardModelConfig, loader: Any) -> None:  # type: ignore[override]
        super().prepare_loop(config, loader)
        self._center = config.center
        self._head: nn.Module = self.model.get_base_model().score if config.lora else self.model.score

    def batch_loss(self, model: nn.Module, batch: Batch, counts: Tensor) -> Tensor:
        """Return this pass's share of the mean Bradley-Terry loss, with margin and centring where asked for."""
        scores_2B = scores_at(model, self._head, batch["input_ids"], batch["last"])
        chosen_B, rejected_B = scores_2B.chunk(2)
        losses_B = bradley_terry_losses(chosen_B, rejected_B, batch.get("margin"))
        if self._center > 0:
            losses_B = losses_B + self._center * centering_losses(chosen_B, rejected_B)
        weights_B = batch["weights"]
        self._measure(chosen_B.detach(), rejected_B.detach(), weights_B)
        return (losses_B * weights_B).sum() / counts[0]

    def _measure(self, chosen_B: Tensor, rejected_B: Tensor, weights_B: Tensor) -> None:
        num_pairs = weights_B.sum()
        scores_2B = torch.cat([chosen_B, rejected_B])
        one = torch.ones((), device=num_pairs.device)
        self.meter("accuracy", ((chosen_B > rejected_B).float() * weights_B).sum(), num_pairs)
        self.meter("margin", ((chosen_B - rejected_B) * weights_B).sum(), num_pairs)
        self.meter("mean_reward", ((chosen_B + rejected_B) * weights_B).sum() / 2, num_pairs)
        self.meter("min_reward", scores_2B.min(), one)
        self.meter("max_reward", scores_2B.max(), one)
