"""Distillation from a live teacher on fixed text: the student learns the teacher's token distributions.

Shapes: B rows, T positions, N supervised positions, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import trl
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from posttrain.config import DistillConfig, Execution
from posttrain.core.chat import load_tokenizer
from posttrain.core.errors import ModelError
from posttrain.core.models import check_model_dir, load_causal_lm, model_hash
from posttrain.core.templates import print_alike
from posttrain.train.errors import TrainError
from posttrain.train.fingerprint import fingerprint
from posttrain.train.forward import Forward, prepare_forward
from posttrain.train.kinds import Progress, check_training_rows
from posttrain.train.launch import launch, needs_launch
from posttrain.train.loop import Batch
from posttrain.train.losses import divergences, entropy_and_hits, token_logprobs
from posttrain.train.sft import RowCollator, SFTTrainer, tokenize_rows
from posttrain.train.shared import tokenized
from posttrain.train.start import starting_policy
from posttrain.train.trainer import (
    DEFAULT_EXECUTION,
    Job,
    lora_arguments,
    make_loader,
    plan_steps,
    restore_forward,
    run,
    training_arguments,
)


def train_distill(
    model_dir: str | Path,
    teacher_dir: str | Path | None,
    rows: Iterable[Mapping[str, Any]],
    out_dir: str | Path,
    config: DistillConfig,
    seed: int,
    execution: Execution = DEFAULT_EXECUTION,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a student to give a teacher's distribution at each assistant token, and write it to a folder.

    Args:
        model_dir: Hugging Face folder of the student.
        teacher_dir: folder of the teacher; None for `method: sequence`, which reads the text alone.
        rows: as for SFT; usually the teacher's own completions.
        out_dir: receives the student, metrics.jsonl and, with LoRA, the adapters.
        seed: the run's seed; `config.seed` wins.
        progress: called with (steps done, steps in all).

    Returns:
        Counts of rows, the last logged metrics, and the time.

    Raises:
        DataError: rows that cannot be used, all of them listed, before weights are loaded.
        ModelError: the two vocabularies are not the same.
        TrainError: the run would be, or went, wrong.
    """
    job = Job(Path(model_dir), Path(out_dir), config, seed, execution, progress)
    rows = list(rows)
    check_training_rows("distill", rows)
    check_model_dir(job.model_dir)
    tokenizer = load_tokenizer(job.model_dir)
    if config.method == "sequence":
        teacher_dir = None
    elif teacher_dir is None:
        raise TrainError(f"method {config.method} needs a teacher: give --teacher DIR, or use method=sequence.")
    if teacher_dir is not None:
        check_model_dir(teacher_dir)
        check_vocabularies(tokenizer, load_tokenizer(teacher_dir), job.model_dir, teacher_dir)
    dataset, intake = tokenized(lambda: tokenize_rows(rows, tokenizer, config))
    if needs_launch(execution):
        tokens = (dataset, intake)
        return launch("distill", model_dir, teacher_dir, rows, out_dir, config, seed, execution, progress, tokens)
    job.seed_everything()
    plan = plan_steps(len(dataset), config)
    model = starting_policy(job)
    make = partial(RowCollator, dataset, tokenizer.pad_token_id)
    forward, collate = prepare_forward(model, make)
    trainer = DistillTrainer(
        model=model,
        args=training_arguments(trl.SFTConfig, job, plan, max_length=None),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=lora_arguments(job, model, "CAUSAL_LM"),
    )
    restore_forward(trainer.model)
    identity: dict[str, Any] = dict(fingerprint(dataset))
    if teacher_dir is not None:
        # Only read, so it may stand in the compute type of the run.
        teacher = load_causal_lm(teacher_dir, dtype=config.dtype, device=job.device)
        teaching, _ = prepare_forward(teacher, make)
        if forward.packs != teaching.packs:
            forward.why_padded = teaching.why_padded = forward.why_padded or f"the teacher: {teaching.why_padded}"
            collate = make(packed=False)
        trainer.teach_from(teacher, teaching, len(tokenizer))
        identity["teacher"] = model_hash(teacher_dir)  # a signal leaves a checkpoint whatever the config says
    trainer.prepare_loop(config, make_loader(job, plan, collate, forward), forward)
    return run(job, trainer, tokenizer, intake, identity, collate.probe())


def check_vocabularies(
    student: PreTrainedTokenizerBase,
    teacher: PreTrainedTokenizerBase,
    student_dir: str | Path,
    teacher_dir: str | Path,
) -> None:
    """Refuse a teacher whose token ids mean other texts than the student's, or that reads another template.

    Raises:
        ModelError: names tokens that differ.
    """
    if not print_alike(student, teacher):
        raise ModelError(
            f"the chat templates of the student {student_dir} and the teacher {teacher_dir} print a conversation in "
            "two ways, so that one of them would read a form that it does not know; give the student the teacher's "
            "template, or use method: sequence, which learns from the teacher's text."
        )
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    if ours == theirs:
        return
    differing = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
    shown = ", ".join(f"{token!r} ({ours.get(token)} / {theirs.get(token)})" for token in differing[:5])
    raise ModelError(
        f"the student {student_dir} and the teacher {teacher_dir} have different vocabularies: {len(differing)} tokens "
        f"differ, {shown} among them. Token distributions cannot be compared; use method: sequence, which learns from "
        "the teacher's text."
    )


class DistillTrainer(SFTTrainer):
    """SFT's trainer with a divergence from the teacher in place of, or beside, the cross-entropy."""

    _teacher: nn.Module | None = None

    def teach_from(self, teacher: nn.Module, forward: Forward, vocabulary: int) -> None:
        """Take a teacher that stays as it is.

        Args:
            forward: runs the teacher.
            vocabulary: tokens that the tokenizer knows. Heads are often padded beyond it, to different sizes; the
                padding rows are cut off on both sides.
        """
        self._teacher = teacher.requires_grad_(False).eval()
        self._teaching = forward
        heads: list[Any] = [self.model.get_output_embeddings(), forward.head]
        sizes = [int(head.weight.shape[0]) for head in heads]
        if min(sizes) < vocabulary:
            raise ModelError(f"a head has {min(sizes)} rows for {vocabulary} tokens: {json.dumps(sizes)}")
        self._size = min(sizes)

    def batch_loss(self, model: nn.Module, batch: Batch, counts: Tensor) -> Tensor:
        """Return this pass's share of (1 - ce_weight) × divergence + ce_weight × cross-entropy, means over tokens."""
        if self._teacher is None:
            return super().batch_loss(model, batch, counts)
        config: Any = self._train_config
        tokens, weights_N = counts[0].clamp(min=1), batch["weights"]
        self.measure_lengths(batch)
        logits_NV = self._forward.logits_at(model, batch, batch["places"])
        if self.logs_next:
            self.measure_tokens(*entropy_and_hits(logits_NV, batch["targets"]), weights_N)
        with torch.no_grad(), self._teaching.attention():
            teacher_NV = self._teaching.logits_at(self._teacher, batch, batch["places"])
        values_N = divergences(
            config.method, teacher_NV[:, : self._size], logits_NV[:, : self._size], config.temperature, config.top_k
        )
        divergence = (values_N * weights_N).sum()
        self.meter("loss/divergence", divergence, weights_N.sum())
        if config.ce_weight == 0.0:
            return divergence / tokens
        cross_entropy = -(token_logprobs(logits_NV, batch["targets"]) * weights_N).sum()
        return ((1.0 - config.ce_weight) * divergence + config.ce_weight * cross_entropy) / tokens
