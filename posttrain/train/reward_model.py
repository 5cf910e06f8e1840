"""Reward models: Bradley-Terry on preference pairs and rankings, a prompt computed once for all its answers.

Shapes: B rows (a pair or a ranking), A answers of all rows, P pairs of answers.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
import trl
from torch import Tensor, nn

from posttrain.config import Execution, RewardModelConfig
from posttrain.core.atomic import atomic_write
from posttrain.core.errors import DataError
from posttrain.core.files import content_hash
from posttrain.core.formats import normalize_prompt, prompt_id
from posttrain.core.likeness import reader_form
from posttrain.core.models import check_model_dir, load_reward_model, reward_tokenizer
from posttrain.train.fingerprint import fingerprint
from posttrain.train.forward import prepare_forward
from posttrain.train.kinds import Progress
from posttrain.train.launch import launch, needs_launch
from posttrain.train.loop import Batch, ExactTrainer
from posttrain.train.losses import bradley_terry_losses, centering_losses
from posttrain.train.rankings import RankingCollator, as_rankings, tokenize_rankings
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
from reward.encoding import context_length
from reward.parity import check_class
from reward.preferences import rankings_to_pairs
from reward.score import score_head, score_pairs

Row = dict[str, Any]

log = logging.getLogger(__name__)

FEW_PAIRS = 100
"""Fewer pairs than this are worth a warning before a reward model is made of them."""


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
        rows: rows with `prompt`, `chosen`, `rejected` (and `strength`), or `prompt`, `completions` best first. The
            loss is a mean over pairs, and a ranking counts as all of its pairs.
        out_dir: receives the model, metrics.jsonl and report.json.
        seed: the run's seed; `config.seed` wins.
        progress: called with (steps done, steps in all).

    Returns:
        Counts of rows, `accuracy` on the held-out prompts (None where nothing is held out could be scored) with its
        interval and the `accuracy_pairs` that it was measured on, the last
        logged metrics of training under `train/…`, and the time.

    Raises:
        DataError: rows that cannot be used, all of them listed, before weights are loaded.
        TrainError: the run would be, or went, wrong.
    """
    job = Job(Path(model_dir), Path(out_dir), config, seed, execution, progress)
    rows = list(rows)
    rankings = as_rankings(rows, needs_strength=config.margin)
    check_model_dir(job.model_dir)
    tokenizer, pad_id = reward_tokenizer(job.model_dir)
    rankings, held_out = split_by_prompt(rankings, config.held_out, config.min_pairs)
    check_number(num_pairs_of(rankings), num_pairs_of(held_out), config.min_pairs)
    dataset, intake = tokenized(lambda: tokenize_rankings(rankings, tokenizer, config, pad_id))
    if needs_launch(execution):
        tokens = (dataset, intake)
        return launch("reward_model", model_dir, None, rows, out_dir, config, seed, execution, progress, tokens)
    job.seed_everything()
    model = starting_reward_model(job)
    forward, collate = prepare_forward(model, partial(RankingCollator, dataset, tokenizer.pad_token_id))
    check_class(model, score_head(model), [collate.probe()], context_length(model))
    plan = plan_steps(len(dataset), config)
    trainer = RewardTrainer(
        model=model,
        args=training_arguments(trl.RewardConfig, job, plan, max_length=None, disable_dropout=False),  # it is off
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=lora_arguments(job, model, "SEQ_CLS"),
    )
    trainer.prepare_loop(config, make_loader(job, plan, collate, forward), forward)
    trained = run(job, trainer, tokenizer, intake, fingerprint(dataset), collate.probe())
    if not trainer.is_world_process_zero():
        return _apart(trained)
    return {**_apart(trained), **report_on(rankings_to_pairs(held_out), job, tokenizer)}


def split_by_prompt(rows: list[Row], share: float, min_pairs: int = 2) -> tuple[list[Row], list[Row]]:
    """Hold out all rows of a share of the prompts.

    Rows belong together by what their prompts say, up to white space and Unicode form, whatever ids they have. Prompts
    are ordered by a hash of their content, so that a prompt held out in one round mostly is in the next, whatever
    was added.

    Returns:
        The rows to train on and those held out, at least one prompt each where there are two.

    Raises:
        DataError: only one prompt, unless one pair is enough; then nothing is held out.
    """
    ids = _prompt_names(rows)
    order = sorted(set(ids), key=lambda name: blake2b(name.encode(), digest_size=8).digest())
    if len(order) == 1 and min_pairs == 1:
        return rows, []
    if len(order) < 2:
        raise DataError(
            f"a reward model needs pairs of at least 2 prompts to be measured, got {len(order)}; label more, or "
            "set min_pairs to 1 to train all the same and measure nothing"
        )
    held = set(order[: max(1, math.floor(share * len(order)))])
    kept = [row for row, name in zip(rows, ids, strict=True) if name not in held]
    return kept, [row for row, name in zip(rows, ids, strict=True) if name in held]


def _prompt_names(rows: list[Row]) -> list[str]:
    """Name the prompt of each row by its content, rows of one text alike."""
    names: dict[str, str] = {}
    found = []
    for row in rows:
        messages = normalize_prompt(row["prompt"])
        folded = [{**message, "content": reader_form(message["content"])} for message in messages]
        tools = row.get("tools")
        found.append(names.setdefault(content_hash([folded, tools]), prompt_id(messages, tools)))
    return found


def num_pairs_of(rankings: Iterable[Row]) -> int:
    """Count the pairs of answers that rankings say something of."""
    return sum(math.comb(len(ranking["completions"]), 2) for ranking in rankings)


def check_number(num_pairs: int, num_held_out: int, min_pairs: int) -> None:
    """Warn of few pairs, and refuse fewer than `min_pairs`, before anything is trained on them.

    Raises:
        DataError: there are fewer.
    """
    total = num_pairs + num_held_out
    if total >= FEW_PAIRS:
        return
    why = (
        "In a recipe annotate.strengths and annotate.min_strength leave near ties out, an answer cut at "
        "annotate.max_completion_tokens is in few pairs, and annotate.prompts, num_completions and num_pairs bound them"
    )
    if total < min_pairs:
        raise DataError(
            f"a reward model of {total} preference pairs, {num_held_out} of them held out, would say nothing; label "
            f"more, or set min_pairs to {total} to train all the same. {why}"
        )
    log.warning(
        "a reward model is trained on %d preference pairs and measured on %d: its accuracy will say little. %s",
        num_pairs, num_held_out, why,
    )  # fmt: skip


def report_on(held_out: list[Row], job: Job, tokenizer: Any) -> dict[str, Any]:
    """Score the held-out pairs with the model as it was saved, and write report.json."""
    model = load_reward_model(job.out_dir, device=job.device)
    scored, unscored = score_pairs(
        held_out, model, tokenizer, job.execution.max_batch_tokens, job.config.max_tokens, job.config.template_date
    )
    report = reward_model_report(scored) if scored else {"accuracy": None, "num_pairs": 0}
    report["num_unscored"] = len(unscored)
    atomic_write(job.out_dir / "report.json", json.dumps(report, indent=2, ensure_ascii=False))
    measured = {key: report.get(key) for key in ("accuracy", "accuracy_low", "accuracy_high")}
    return {**measured, "accuracy_pairs": report["num_pairs"], "num_held_out": len(held_out)}


def _apart(trained: dict[str, Any]) -> dict[str, Any]:
    """Put the metrics of the last training batch under train/, so that none is taken for the held-out one."""
    own = ("accuracy", "margin", "min_reward", "mean_reward", "max_reward", "loss")
    return {(f"train/{name}" if name in own else name): value for name, value in trained.items()}


class RewardTrainer(ExactTrainer, trl.RewardTrainer):
    """TRL's trainer on packs, with scores read at the true end of each answer, and a mean over the global batch."""

    def batch_loss(self, model: nn.Module, batch: Batch, counts: Tensor) -> Tensor:
        """Return this pass's share of the mean Bradley-Terry loss, with margin and centring where asked for."""
        config: Any = self._train_config
        scores_A = self._forward.scores_at(model, batch, batch["places"])
        chosen_P, rejected_P = scores_A[batch["better"]], scores_A[batch["worse"]]
        losses_P = bradley_terry_losses(chosen_P, rejected_P, batch["margin"] if config.margin else None)
        if config.center > 0:
            losses_P = losses_P + config.center * centering_losses(chosen_P, rejected_P)
        self._measure(chosen_P.detach(), rejected_P.detach(), batch["weights"])
        return (losses_P * batch["weights"]).sum() / counts[0]

    def _measure(self, chosen_P: Tensor, rejected_P: Tensor, weights_P: Tensor) -> None:
        num_pairs = weights_P.sum()
        scores_2P = torch.cat([chosen_P, rejected_P])
        one = torch.ones((), device=num_pairs.device)
        self.meter("accuracy", ((chosen_P > rejected_P).float() * weights_P).sum(), num_pairs)
        self.meter("margin", ((chosen_P - rejected_P) * weights_P).sum(), num_pairs)
        self.meter("mean_reward", ((chosen_P + rejected_P) * weights_P).sum() / 2, num_pairs)
        self.meter("min_reward", scores_2P.min(), one)
        self.meter("max_reward", scores_2P.max(), one)
