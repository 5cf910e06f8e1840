"""From our config to TRL's arguments, and from a trainer to a finished folder: the one place for both."""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, PrinterCallback, ProgressCallback, TrainingArguments, set_seed

from posttrain.config import Execution, TrainConfig
from posttrain.core.files import content_hash
from posttrain.core.model_saving import check_can_save
from posttrain.core.models import model_hash
from posttrain.train.adapters import adapted_layers, check_targets, float32_adapters
from posttrain.train.batches import Array, EpochLoader, GlobalBatches, Step
from posttrain.train.checkpoints import FOLDER, check_room, find_checkpoint, step_of
from posttrain.train.errors import TrainError
from posttrain.train.forward import Forward
from posttrain.train.guards import adapter_snapshot, check_adapters_moved, check_weights
from posttrain.train.intake import Intake
from posttrain.train.kinds import Progress
from posttrain.train.limits import check_limits
from posttrain.train.loop import ExactTrainer
from posttrain.train.metrics import MetricsFile
from posttrain.train.saving import save_trained
from posttrain.train.sharding import shard
from posttrain.train.steps import forget_moments, make_steps
from posttrain.train.trackers import PROJECT, check_trackers, run_name

log = logging.getLogger(__name__)
Arguments = TypeVar("Arguments", bound=TrainingArguments)


class Collator(Protocol):
    """What makes a step's batch; `sizes` are the tokens that each row takes in a forward pass."""

    sizes: Array

    def __call__(self, step: Step) -> dict[str, Any]: ...


DEFAULT_EXECUTION = Execution()
"""This machine as it is: an accelerator if there is one, one process."""


@dataclass(frozen=True)
class Job:
    """What every training run is given.

    Attributes:
        model_dir: Hugging Face folder to start from.
        out_dir: folder that receives the trained model and metrics.jsonl.
        config: the training section.
        run_seed: the run's seed; the section's own wins.
        execution: device, processes, threads.
        progress: called with (steps done, steps in all).

    Raises:
        TrainError: a tracker that the config names is not installed.
    """

    model_dir: Path
    out_dir: Path
    config: TrainConfig
    run_seed: int
    execution: Execution
    progress: Progress | None = None

    def __post_init__(self) -> None:
        check_limits(self.config, self.execution)
        check_trackers(self.config.report_to)

    @property
    def in_4bit(self) -> bool:
        """Say whether frozen weights are to stand in 4 bits below adapters."""
        return self.config.lora is not None and self.config.lora.load_in_4bit

    @property
    def seed(self) -> int:
        """Return the seed of data order, heads and adapters."""
        return self.run_seed if self.config.seed is None else self.config.seed

    @property
    def device(self) -> str:
        """Return `cpu`, `cuda`, or the device of this process where there are several."""
        device = self.execution.device
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise TrainError(f"execution.device is {device}, but torch sees no CUDA device; use cpu or auto.")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        local = os.environ.get("LOCAL_RANK")
        return f"cuda:{local}" if device == "cuda" and local is not None else device

    def precision(self) -> AbstractContextManager[Any]:
        """Return the context of the compute type that the config asks for."""
        kind = torch.device(self.device).type
        return torch.autocast(device_type=kind, dtype=torch.bfloat16, enabled=self.config.dtype == "bfloat16")

    def seed_everything(self) -> None:
        """Seed all generators, before any weight is made, and set the threads of a CPU run."""
        set_seed(self.seed)
        if self.execution.threads is not None:
            torch.set_num_threads(self.execution.threads)


@dataclass(frozen=True)
class Plan:
    """How rows become steps.

    Attributes:
        steps: optimizer steps in all.
        world_size: processes.
        rank: number of this process.
    """

    steps: int
    world_size: int
    rank: int


def plan_steps(num_rows: int, config: TrainConfig) -> Plan:
    """Work out the steps; the number of processes comes from the launcher."""
    per_epoch = math.ceil(num_rows / config.global_batch_size)
    steps = config.max_steps or math.ceil((config.epochs or 0.0) * per_epoch)
    return Plan(steps, int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0")))


def training_arguments(kind: Callable[..., Arguments], job: Job, plan: Plan, **extra: Any) -> Arguments:
    """Map our config to the arguments of a TRL trainer.

    Whatever TRL would choose by itself and we do not want is said here: bfloat16 and activation checkpointing are its
    defaults, NaN losses are filtered from transformers' log, and a warm-up below one step would round up to a whole
    step with learning rate 0.
    """
    config = job.config
    warmup = int(config.warmup_ratio * plan.steps)
    arguments = kind(
        output_dir=str(job.out_dir / FOLDER),
        max_steps=plan.steps,
        # To the trainer a step is one batch; ExactTrainer makes the forward passes of which it consists.
        per_device_train_batch_size=math.ceil(config.global_batch_size / plan.world_size),
        gradient_accumulation_steps=1,
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant_with_warmup" if config.schedule == "constant" else config.schedule,
        warmup_steps=warmup,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=config.dtype == "bfloat16",
        activation_checkpointing=config.gradient_checkpointing,
        use_cpu=job.device == "cpu",
        seed=job.seed,
        data_seed=job.seed,
        logging_steps=config.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",  # `run` adds trackers in a wrap
        project=PROJECT,
        run_name=run_name(job.out_dir),
        save_strategy="no" if config.checkpoint_steps is None else "steps",
        save_steps=config.checkpoint_steps or 1,
        save_total_limit=2,
        average_tokens_across_devices=True,
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        push_to_hub=False,
        **extra,
    )
    _ = arguments.device
    arguments._n_gpu = min(arguments._n_gpu, 1)  # one process drives one device; DataParallel breaks the losses
    return arguments


def lora_arguments(job: Job, model: Any, task: str) -> PeftLoraConfig | None:
    """Map our adapter section to peft's; a reward model's head is trained in full beside the adapters.

    Raises:
        TrainError: a name in target_modules that no layer of the model has.
    """
    lora = job.config.lora
    if lora is None:
        return None
    modules = lora.target_modules
    left_out = check_targets(model, modules)
    return PeftLoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft divides by the rank; a float is as good
        lora_dropout=lora.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
        exclude_modules=left_out or None,
        task_type=task,
        modules_to_save=["score"] if task == "SEQ_CLS" else None,
    )


def make_loader(job: Job, plan: Plan, collate: Collator, forward: Forward) -> EpochLoader:
    """Return the loader whose steps depend on the seed alone."""
    batches = GlobalBatches(
        collate.sizes,
        job.config.global_batch_size,
        job.config.device_batch_size,
        job.config.device_batch_tokens,
        job.seed,
        plan.rank,
        plan.world_size,
        padded=not forward.packs,
    )
    return EpochLoader(batches, len(collate.sizes), collate)


def trainable(model: Any) -> Any:
    """Let all weights be trained: those that were merged with an adapter come frozen.

    Raises:
        TrainError: a weight is NaN or infinite.
    """
    check_weights(model, "the model to start from")
    return model.requires_grad_(True)


def restore_forward(model: Any) -> None:
    """Take TRL's replacement of `forward` off again: a copy of the model would run the original's weights with it."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    base.__dict__.pop("forward", None)


def run(
    job: Job, trainer: ExactTrainer, tokenizer: PreTrainedTokenizerBase, intake: Intake, data: Any, probe: list[int]
) -> dict[str, Any]:
    """Train, check, merge adapters, save, and return the metrics of the run.

    Args:
        data: what identifies the rows, as JSON values; a resumed run must have the same.
        probe: token ids on which merged adapters must give the same output as unmerged ones.

    Raises:
        TrainError: a guard refused, or fewer steps were made than asked.
        TrainingInterrupted: a signal came; a checkpoint holds the state after the step under way.
        StorageError: no room for a checkpoint; the one before it is whole.
    """
    job.out_dir.mkdir(parents=True, exist_ok=True)
    main = trainer.is_world_process_zero()
    checkpoint = _checkpoint_of(job, data, main)
    first_step = step_of(checkpoint) if checkpoint else 0
    if job.config.checkpoint_steps is not None:
        check_room(job.out_dir / FOLDER, trainer.model, job.config.allow)
    metrics = MetricsFile(job.out_dir / "metrics.jsonl", first_step, job.progress, main)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(metrics)
    check_can_save(trainer.model, tokenizer)  # in every process, so that all of them end
    base_hash = model_hash(job.model_dir) if job.config.lora else ""
    if job.in_4bit:
        float32_adapters(trainer.model)
    before = adapter_snapshot(trainer.model)
    adapted = adapted_layers(trainer.model)
    if adapted and main:
        kinds = sorted({name.rpartition(".")[2] for name in adapted})
        log.warning("%d layers get an adapter: %s", len(adapted), ", ".join(kinds))
    trainer.watch_adapters(before)
    if job.execution.sharding == "fsdp2" and trainer.args.world_size > 1:
        shard(trainer.model, job.device, job.config.dtype)
        trainer.is_distributed_loading_by_transformers = True  # so that nothing wraps it once more
        trainer.saves_checkpoints = False
    started = time.perf_counter()
    make_steps(trainer, checkpoint, job.out_dir, job.config.report_to)
    seconds = time.perf_counter() - started
    check_adapters_moved(trainer.model, before, job.config.allow)
    forget_moments(trainer)
    save_trained(trainer, tokenizer, job.model_dir, job.out_dir, probe, base_hash)
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        shutil.rmtree(job.out_dir / FOLDER, ignore_errors=True)
    last = metrics.rows[-1] if metrics.rows else {}
    return {
        **intake.summary(),
        "steps": trainer.state.global_step,
        "resumed_from": first_step,
        "train_seconds": seconds,
        **({"adapted_layers": len(adapted)} if adapted else {}),
        **{name: value for name, value in last.items() if name not in ("step", "epoch")},
    }


def _checkpoint_of(job: Job, data: Any, main: bool) -> Path | None:
    config = job.config.identity() | {"seed": job.seed}
    config.pop("allow")  # a run that a guard has stopped may go on past it
    identity = {
        "config": content_hash(config),
        "rows": content_hash(data),
        "starting weights": model_hash(job.model_dir),
    }
    return find_checkpoint(job.out_dir / FOLDER, identity, main)
