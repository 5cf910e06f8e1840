"""Metrics of a run as JSON Lines, and its progress as calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from posttrain.core.jsonl import encode_row, read_jsonl_lenient
from posttrain.train.kinds import Progress


class MetricsFile(TrainerCallback):
    """Write a row of metrics.jsonl for each logged step, with TRL's names, and tell how far the run is.

    Args:
        path: the file; after a resume, rows beyond the resumed step are taken out.
        first_step: step that the run starts after, 0 for a fresh run.
        progress: called with (steps done, steps in all) after each step.
        writes: false in all processes but the first, which keep the rows without writing them.
    """

    def __init__(self, path: Path, first_step: int = 0, progress: Progress | None = None, writes: bool = True) -> None:
        self._path = path
        self._progress = progress
        self._writes = writes
        self.rows: list[dict[str, Any]] = []
        if first_step and path.is_file():
            whole = [row for _, row in read_jsonl_lenient(path) if isinstance(row, dict)]
            self.rows = [row for row in whole if row["step"] <= first_step]
        if writes:
            path.write_bytes(b"".join(encode_row(row) for row in self.rows))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Log the last step whatever its number, and report progress."""
        if state.global_step >= state.max_steps:
            control.should_log = True
        if self._progress is not None and self._writes:
            self._progress(state.global_step, state.max_steps)
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append the row; the summary that transformers logs at the end has no loss of a step and is left out."""
        if logs is None or "loss" not in logs:
            return
        row = {"step": state.global_step, "epoch": state.epoch, **logs}
        self.rows.append(row)
        if self._writes:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
