"""What all our trainers change in TRL's: exact sums over the global batch, and checks before each optimizer step.

TRL and transformers average micro-batches; where rows have different lengths, the loss then depends on how a batch is
split (libraries: TRL 1.16, `loss_is_scaled_for_ga`). Here a loss is always a sum over this forward pass divided by
counts of the whole global batch, so any split over forward passes and processes gives the same gradient. To the trainer
a step is one batch; its forward passes are made in here, as many as its tokens need.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from posttrain.config import TrainConfig
from posttrain.core.model_saving import unchanged_config
from posttrain.train.batches import EpochLoader
from posttrain.train.errors import TrainError
from posttrain.train.forward import Forward
from posttrain.train.guards import check_adapters_moved, check_gradient, check_loss
from posttrain.train.peak import Work
from posttrain.train.resumable import ResumableTrainer

Batch = dict[str, Any]


def collect(parts: list[Batch]) -> Batch:
    """Make a step's batch of its forward passes."""
    return {
        "parts": parts,
        "counts": torch.stack([part["counts"] for part in parts]).sum(dim=0),
        "rows": [row for part in parts for row in part["rows"]],
        "num_tokens": sum(part["num_tokens"] for part in parts),
    }


class ExactTrainer(ResumableTrainer):
    """Mixin in front of a TRL trainer; a subclass gives `batch_loss`.

    A step's batch holds `parts`, one for each forward pass, with tensors for `batch_loss`; and of each part and of the
    step `counts` (what the loss is divided by, summed over the global batch), `rows` (row numbers, for messages) and
    `num_tokens` (tokens without padding, a prompt counted once for each of its answers).
    """

    model: Any
    loss_is_scaled_for_ga: Any = True

    def __init__(self, **given: Any) -> None:
        """Set up TRL's trainer, which puts the adapters in.

        Raises:
            TrainError: peft puts no such adapters into this model.
        """
        try:
            with unchanged_config(given["model"]):
                super().__init__(**given)
        except (ValueError, TypeError, NotImplementedError) as error:
            if given.get("peft_config") is None:
                raise
            reason = " ".join(str(error).split())[:400]
            raise TrainError(
                f"no adapters can be put into a {type(given['model']).__name__}: {reason}. Name other layers in "
                "lora.target_modules, or leave lora out."
            ) from error

    def train(self, *args: Any, **kwargs: Any) -> Any:
        with unchanged_config(self.model):
            return super().train(*args, **kwargs)

    def prepare_loop(self, config: TrainConfig, loader: EpochLoader, forward: Forward) -> None:
        """Hand over what the training loop needs; call once after the constructor."""
        self._train_config = config
        self._loader = loader
        self._forward = forward
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}
        self._tokens = 0
        self._tokens_logged = 0
        self._work = Work(self.model, loader.lengths, config.dtype, self.args.world_size)
        self._clock = time.perf_counter()
        self._adapters: dict[str, Tensor] = {}
        self._rows: list[int] = []

    def watch_adapters(self, before: dict[str, Tensor]) -> None:
        """Check early that adapters move: `before` holds them as they were at the start."""
        self._adapters = before

    def batch_loss(self, model: nn.Module, batch: Batch, counts: Tensor) -> Tensor:
        """Return this forward pass's share of the global batch's loss: sums divided by `counts`."""
        raise TypeError(f"{type(self).__name__} has no loss of its own; subclasses define batch_loss")

    def before_optimizer_step(self, step: int) -> None:
        """Look at a finished gradient; subclasses add their guards. `step` counts from 1."""

    def meter(self, name: str, total: Tensor, weight: Tensor) -> None:
        """Add to a metric that is logged as the ratio of sums since the last logged step."""
        total, weight = total.detach(), weight.detach()
        self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._weights[name] = self._weights[name] + weight if name in self._weights else weight

    @property
    def logs_next(self) -> bool:
        """Say whether the optimizer step under way will be logged."""
        step = self.state.global_step + 1
        return step == 1 or step % self.state.logging_steps == 0 or step == self.state.max_steps

    # ------------------------------------------------------------------ what transformers and TRL call

    def get_train_dataloader(self) -> EpochLoader:
        return self._loader

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset  # rows come tokenised

    def _send_telemetry(self) -> None:
        return None

    def floating_point_ops(self, inputs: Batch) -> int:
        return 0

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> Tensor:
        counts = torch.stack([batch["counts"] for batch in batch_samples]).sum(dim=0).to(device)
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts, reduction="sum")
        return counts

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch: Any = None) -> Tensor:
        """Run the forward and backward passes of an optimizer step, and give its loss."""
        model.train()
        batch: Batch = self._prepare_inputs(inputs)
        total = torch.zeros((), device=self.args.device)
        with self._forward.attention():
            for number, part in enumerate(batch["parts"], start=1):
                is_last = number == len(batch["parts"])
                self.accelerator.gradient_state._set_sync_gradients(is_last)
                with nullcontext() if is_last else self.accelerator.no_sync(model):
                    with self.compute_loss_context_manager():
                        loss = self.batch_loss(model, part, num_items_in_batch)
                    check_loss(loss.item(), self.state.global_step + 1, part["rows"], self._train_config.allow)
                    # torch averages gradients over processes, and the counts already span them.
                    self.accelerator.backward(loss * self.args.world_size)
                self._work.add(part)
                total += loss.detach()
        self._rows += batch["rows"]
        self._tokens += batch["num_tokens"]
        return total * self.args.world_size

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> float:
        value = super()._get_grad_norm(model, grad_norm=grad_norm)
        norm = float(value.item() if isinstance(value, Tensor) else value)
        step = self.state.global_step + 1
        rows, self._rows = self._rows, []
        check_gradient(norm, step, self._train_config.allow, rows)
        if step == 3:  # the first step of a warm-up has learning rate 0, the second has not
            check_adapters_moved(self.model, self._adapters, self._train_config.allow)
        self.before_optimizer_step(step)
        return self.leave_out_step(model, step, rows) if not math.isfinite(norm) else self.keep_step(norm)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs.update(self._read_meters())
        Trainer.log(self, logs, start_time)

    def _read_meters(self) -> dict[str, float]:
        names = sorted(self._sums)
        table = [torch.stack([self._sums[name].double(), self._weights[name].double()]) for name in names]
        tokens = torch.tensor([self._tokens, self._tokens_logged], dtype=torch.float64, device=self.args.device)
        sums = torch.stack([*table, tokens, tokens.new_tensor([self._work.flops, 0.0])])
        if self.args.world_size > 1:
            sums = self.accelerator.reduce(sums, reduction="sum")
        *rows, (seen, logged), (flops, _) = sums.tolist()
        values = {name: total / weight if weight else 0.0 for name, (total, weight) in zip(names, rows, strict=True)}
        values = {name: value for name, value in values.items() if math.isfinite(value)}  # a step was left out
        self._sums.clear()
        self._weights.clear()
        if self._skipped:
            values["skipped_steps"] = float(self._skipped)
        self._good_loss = 0.0
        now = time.perf_counter()
        values["num_tokens"] = seen
        values["tokens_per_second"] = (seen - logged) / max(now - self._clock, 1e-9)
        values.update(self._work.read(flops, now - self._clock))
        self._clock, self._tokens_logged = now, self._tokens
        return values
