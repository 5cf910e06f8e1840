"""Checkpoints that are whole or not there, and counters that a resumed run goes on from."""

from __future__ import annotations

import logging
import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from posttrain.core.atomic import tells_of_no_room
from posttrain.core.errors import StorageError
from posttrain.train.checkpoints import COUNTS, WRITING, checkpoints_in, publish
from posttrain.train.guards import PreferenceWatch, check_skipped, name_rows
from posttrain.train.peak import Work

log = logging.getLogger(__name__)


class ResumableTrainer(Trainer):
    """Base of our trainers: what they have counted since the last logged step is part of a checkpoint.

    transformers writes a checkpoint file by file into its final folder, and starts its own sums, as TRL its token
    count, from 0 when a run is resumed; the first row of metrics.jsonl after that would then tell of fewer steps.
    """

    saves_checkpoints = True
    """Whether this run can write checkpoints at all; one that cannot stops at a signal without one."""
    _sums: dict[str, Tensor]
    _weights: dict[str, Tensor]
    _tokens: int
    _tokens_logged: int
    _clock: float
    _work: Work
    _watch: PreferenceWatch | None = None
    _writing: str | None = None
    _skipped = 0
    _skipped_in_a_row = 0
    _good_loss = 0.0
    _rows: list[int]

    def counts(self) -> dict[str, Any]:
        """Return what was counted so far, sums over all processes; all of them must call this."""
        numbers = [self._tokens, self._tokens_logged, self._work.flops, self._tr_loss.item() / self.args.world_size]
        sums: dict[str, Any] = {
            "sums": self._sums,
            "weights": self._weights,
            "numbers": torch.tensor(numbers, dtype=torch.float64, device=self.args.device),
        }
        if self.args.world_size > 1:
            sums = self.accelerator.reduce(sums, reduction="sum")
        return {
            **sums,
            "step_logged": self._globalstep_last_logged,
            "seconds": time.perf_counter() - self._clock,
            "watch": self._watch.state() if self._watch else None,
            "skipped": [self._skipped, self._skipped_in_a_row],
        }

    def count_on(self, known: dict[str, Any]) -> None:
        """Go on from the counts of a checkpoint, after the trainer has set its own to 0."""
        tokens, tokens_logged, flops, loss = known["numbers"].tolist()
        own = int(self.is_world_process_zero())  # the sums are those of all processes: the others count from 0
        self._sums = {name: value.to(self.args.device) * own for name, value in known["sums"].items()}
        self._weights = {name: value.to(self.args.device) * own for name, value in known["weights"].items()}
        self._tokens, self._tokens_logged, self._work.flops = int(tokens) * own, int(tokens_logged) * own, flops * own
        self._tr_loss.fill_(loss)  # a mean over processes
        self._good_loss = loss
        self._skipped, self._skipped_in_a_row = known["skipped"]
        self._globalstep_last_logged = known["step_logged"]
        self._clock = time.perf_counter() - known["seconds"]
        if self._watch is not None and known["watch"] is not None:
            self._watch.restore(known["watch"])

    def keep_step(self, norm: float) -> float:
        """Note that a step is good, and return its gradient norm."""
        self._skipped_in_a_row = 0
        loss = self._tr_loss.item()
        if math.isfinite(loss):
            self._good_loss = loss
        else:  # with skip_nan a loss may be no number where its gradient is one
            self._tr_loss.fill_(self._good_loss)
        return norm

    def leave_out_step(self, model: nn.Module, step: int, rows: list[int]) -> float:
        """Let the optimizer change nothing in a step whose gradient is no number, and return 0 for its norm.

        Raises:
            TrainError: too many such steps in a row.
        """
        self._skipped += 1
        self._skipped_in_a_row += 1
        check_skipped(self._skipped_in_a_row, step, rows)
        log.warning("step %d is left out: loss or gradient is no number on rows %s", step, name_rows(rows))
        model.zero_grad(set_to_none=True)
        # The logged loss is a mean over the good steps.
        self._tr_loss.fill_(self._good_loss)
        self._globalstep_last_logged += 1
        return 0.0

    # ------------------------------------------------------------------ what transformers calls

    def _get_output_dir(self, trial: Any) -> str:
        return self._writing or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(str(self.args.output_dir))
        written = folder / WRITING / f"checkpoint-{self.state.global_step}"
        counts = self.counts()
        self._writing = str(written.parent)
        try:
            Trainer._save_checkpoint(self, model, trial)  # without TRL's model card
            if self.args.should_save:
                torch.save(counts, written / COUNTS)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                publish(written, folder)
            self.accelerator.wait_for_everyone()
        except Exception as error:
            if not tells_of_no_room(error):
                raise
            shutil.rmtree(written.parent, ignore_errors=True)
            raise StorageError(_no_room(written, folder, error)) from error
        finally:
            self._writing = None


def _no_room(written: Path, folder: Path, error: Exception) -> str:
    whole = [path.name for path in checkpoints_in(folder)]
    kept = f"{whole[-1]} before it is whole, and the same command goes on from there" if whole else "There is none yet"
    return f"no room to write {folder / written.name} ({' '.join(str(error).split())[-120:]}). {kept}. Free some space."


class CountOn(TrainerCallback):
    """Let a resumed trainer go on from its checkpoint's counts."""

    def __init__(self, trainer: ResumableTrainer, checkpoint: Path) -> None:
        self._trainer = trainer
        self._known = torch.load(checkpoint / COUNTS, map_location="cpu", weights_only=True)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Overwrite the zeros that transformers has just set."""
        self._trainer.count_on(self._known)
