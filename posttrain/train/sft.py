"""Supervised fine-tuning: cross-entropy on assistant tokens, each token of the global batch weighing the same.

Shapes: B rows, T tokens of a row, N supervised positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trl
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from posttrain.config import Execution, SFTConfig, TrainConfig
from posttrain.core.chat import Encoded, encode_example, encode_messages, encode_turns, load_tokenizer, truncate
from posttrain.core.errors import DataError, Faults
from posttrain.core.formats import normalize_prompt
from posttrain.core.models import check_model_dir
from posttrain.train.batches import Array, Ragged, Step, split_fillers
from posttrain.train.fingerprint import fingerprint
from posttrain.train.forward import prepare_forward
from posttrain.train.intake import Intake
from posttrain.train.kinds import Progress, check_training_rows
from posttrain.train.launch import launch, needs_launch
from posttrain.train.loop import Batch, ExactTrainer, collect
from posttrain.train.parts import make_part
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

IGNORED = -100


def train_sft(
    model_dir: str | Path,
    rows: Iterable[Mapping[str, Any]],
    out_dir: str | Path,
    config: SFTConfig,
    seed: int,
    execution: Execution = DEFAULT_EXECUTION,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fine-tune a model on conversations and write it to a folder.

    Args:
        model_dir: Hugging Face folder, or a folder of adapters, to start from.
        rows: rows with `messages` (every assistant message is learned) or with `prompt` and `completion`.
        out_dir: receives the model, metrics.jsonl and, with LoRA, the adapters.
        seed: the run's seed; `config.seed` wins.
        progress: called with (steps done, steps in all).

    Returns:
        Counts of rows, the last logged metrics, and the time.

    Raises:
        DataError: rows that cannot be used, all of them listed, before weights are loaded.
        TrainError: the run would be, or went, wrong.
    """
    job = Job(Path(model_dir), Path(out_dir), config, seed, execution, progress)
    rows = list(rows)
    check_training_rows("sft", rows)
    check_model_dir(job.model_dir)
    tokenizer = load_tokenizer(job.model_dir)
    dataset, intake = tokenized(lambda: tokenize_rows(rows, tokenizer, config))
    if needs_launch(execution):
        tokens = (dataset, intake)
        return launch("sft", model_dir, None, rows, out_dir, config, seed, execution, progress, tokens)
    job.seed_everything()
    model = starting_policy(job)
    forward, collate = prepare_forward(model, partial(RowCollator, dataset, tokenizer.pad_token_id))
    plan = plan_steps(len(dataset), config)
    trainer = SFTTrainer(
        model=model,
        args=training_arguments(trl.SFTConfig, job, plan, max_length=None),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=lora_arguments(job, model, "CAUSAL_LM"),
    )
    restore_forward(trainer.model)
    trainer.prepare_loop(config, make_loader(job, plan, collate, forward), forward)
    return run(job, trainer, tokenizer, intake, fingerprint(dataset), collate.probe())


def tokenize_rows(
    rows: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, config: TrainConfig
) -> tuple[Dataset, Intake]:
    """Turn rows into `input_ids` and `labels` (-100 where nothing is learned).

    Returns:
        The dataset, and the counts of rows cut and dropped. A conversation whose template rewrites earlier turns
        becomes one row per answer.

    Raises:
        DataError: rows that the template refuses; too many cut or dropped.
    """
    rows = list(rows)
    intake, faults = Intake(len(rows)), Faults("training rows")
    ids_list, labels_list = [], []
    for number, row in enumerate(rows, start=1):
        try:
            examples = encode_row(row, tokenizer, config.template_date)
            cut = [truncate(tokenizer, example, config.max_tokens) for example in examples]
        except DataError as error:
            faults.add(f"row {number}: {error}")
            continue
        kept = [example for example in cut if example is not None and any(example.mask)]
        if not kept:
            intake.drop_too_long()
        elif any(len(example.ids) > config.max_tokens for example in examples):
            intake.num_truncated += 1
        for example in kept:
            ids_list.append(example.ids)
            labels_list.append([i if m else IGNORED for i, m in zip(example.ids, example.mask, strict=True)])
    faults.raise_if_any(DataError)
    intake.check(config)
    return Dataset.from_dict({"input_ids": ids_list, "labels": labels_list}), intake


def encode_row(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, date: str | None = None) -> list[Encoded]:
    """Encode an SFT row: usually one example; several where one cannot hold the conversation."""
    tools = row.get("tools")
    if row.get("messages") is None:
        return [encode_example(tokenizer, normalize_prompt(row["prompt"]), row["completion"], date, tools=tools)]
    try:
        return [encode_messages(tokenizer, row["messages"], date, tools)]
    except DataError:
        return encode_turns(tokenizer, row["messages"], date, tools)


class RowCollator:
    """Lay the rows of a step out, and find where they predict what.

    Args:
        dataset: columns `input_ids` and `labels`.
        pad_id: fills up padded rows; labels, never this id, say what is learned.
        packed: whether forward passes hold packs, in which no row sees another.
    """

    def __init__(self, dataset: Dataset, pad_id: int, packed: bool) -> None:
        self._ids = Ragged(dataset, "input_ids")
        self._labels = Ragged(dataset, "labels")
        self._pad_id = pad_id
        self._packed = packed
        self.sizes: Array = self._ids.lengths()
        self.longest = self.sizes

    def probe(self) -> list[int]:
        """Return the tokens of the longest row, up to 256 of them."""
        return [int(token) for token in self._ids[int(self.sizes.argmax())][:256]]

    def __call__(self, step: Step) -> Batch:
        return collect([self.part(numbers) for numbers in step])

    def part(self, numbers: list[int]) -> Batch:
        """Lay some rows out for one forward pass."""
        rows, weights_B = split_fillers(numbers)
        nothing = self._ids[0][:0]
        tensors, places = make_part([(nothing, [self._ids[row]]) for row in rows], self._pad_id, self._packed)
        labels = [self._labels[row] for row in rows]
        learned = [np.flatnonzero(row[1:] != IGNORED) for row in labels]
        num_learned_B = np.array([len(found) for found in learned])
        targets = [row[found + 1] for row, found in zip(labels, learned, strict=True)]
        return {
            **tensors,
            "places": torch.from_numpy(np.concatenate([at[found] for at, found in zip(places, learned, strict=True)])),
            "targets": torch.from_numpy(np.concatenate(targets).astype(np.int64)),
            "weights": torch.from_numpy(np.repeat(weights_B, num_learned_B)),
            "counts": torch.tensor([(num_learned_B * weights_B).sum()]),
            "rows": rows,
            "num_rows": int(weights_B.sum()),
            "num_tokens": int((self.sizes[rows] * weights_B).sum()),
        }


class SFTTrainer(ExactTrainer, trl.SFTTrainer):
    """TRL's trainer on packs, with a loss that projects labelled positions alone."""

    def batch_loss(self, model: nn.Module, batch: Batch, counts: Tensor) -> Tensor:
        """Return the summed cross-entropy of this pass over the supervised tokens of the global batch."""
        logprobs_N, entropy_N, is_best_N = self._forward.logprobs_at(
            model, batch, batch["places"], batch["targets"], measure=self.logs_next
        )
        self.measure_lengths(batch)
        if self.logs_next:
            self.measure_tokens(entropy_N, is_best_N, batch["weights"])
        return -(logprobs_N * batch["weights"]).sum() / counts[0].clamp(min=1)

    def measure_tokens(self, entropy_N: Tensor, is_best_N: Tensor, weights_N: Tensor) -> None:
        """Meter what `entropy_and_hits` gives, under TRL's names."""
        self.meter("entropy", (entropy_N * weights_N).sum(), weights_N.sum())
        self.meter("mean_token_accuracy", (is_best_N * weights_N).sum(), weights_N.sum())

    def measure_lengths(self, batch: Batch) -> None:
        """Meter the learned tokens of a row under TRL's name."""
        self.meter("completions/mean_length", batch["weights"].sum(), batch["weights"].new_tensor(batch["num_rows"]))
