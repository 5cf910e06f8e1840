"""Experiment trackers beside a training, never in its way: one that is down, slow or broken stops nothing."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import queue
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import INTEGRATION_TO_CALLBACK

from posttrain.core.errors import Faults
from posttrain.train.errors import TrainError
from posttrain.train.tracker_names import missing_trackers

PROJECT = "posttrain"
"""Project of the runs in a tracker."""
WAITING = 1000
"""Events that wait for a slow tracker; later ones are dropped."""
FINISH_SECONDS = 10.0
"""Time that all trackers together get at the end for what is still waiting."""

log = logging.getLogger(__name__)


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that are not installed, before anything is loaded.

    Raises:
        TrainError: lists them, with what to install.
    """
    faults = Faults("report_to")
    for fault in missing_trackers(names):
        faults.add(fault)
    faults.raise_if_any(TrainError)


def run_name(out_dir: Path) -> str:
    """Name a run in a tracker by where its model goes: the last two folders, `dpo-3f9c2a1b7d04` for a stage."""
    parts = [part.strip(".").removesuffix(".partial") for part in out_dir.resolve().parts[-2:]]
    return "-".join(part for part in parts if part not in ("", "/"))


class Trackers(TrainerCallback):
    """Show the events of a run to transformers' callbacks of some trackers, each in a thread of its own.

    The run goes on whatever they do: an event is put in a queue with a copy of the state of that moment, so a call that
    hangs holds up its own tracker alone, and one that raises ends it, with one warning. When the block ends, what still
    waits gets `FINISH_SECONDS`.

    Args:
        names: keys of transformers' `INTEGRATION_TO_CALLBACK`.
        out_dir: folder of the run, where TensorBoard writes unless TENSORBOARD_LOGGING_DIR is set.
    """

    def __init__(self, names: Sequence[str], out_dir: Path) -> None:
        os.environ.setdefault("WANDB_PROJECT", PROJECT)
        self._threads = [_TrackerThread(name, out_dir) for name in names]

    def __enter__(self) -> Trackers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        until = time.monotonic() + FINISH_SECONDS
        for thread in self._threads:
            thread.finish()
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                thread.warn(f"did not finish within {FINISH_SECONDS:g} s and is left behind")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Pass the event on."""
        self._pass("on_train_begin", args, state, control, kwargs)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Pass the event on, with a copy of the logs."""
        self._pass("on_log", args, state, control, {**kwargs, "logs": dict(kwargs.get("logs") or {})})

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Pass the event on."""
        self._pass("on_save", args, state, control, kwargs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Pass the event on."""
        self._pass("on_train_end", args, state, control, kwargs)

    def _pass(self, event: str, args: Any, state: Any, control: Any, kwargs: dict[str, Any]) -> None:
        for thread in self._threads:
            thread.put(event, (args, copy.copy(state), copy.copy(control)), kwargs)


class _TrackerThread(threading.Thread):
    """Call one tracker, event by event; a daemon, so that a call that hangs does not hold up the end of the process."""

    def __init__(self, name: str, out_dir: Path) -> None:
        super().__init__(name=f"tracker-{name}", daemon=True)
        self._tracker = name
        self._out_dir = out_dir
        self._queue: queue.Queue[tuple[str, tuple[Any, ...], dict[str, Any]] | None] = queue.Queue(WAITING)
        self._has_warned = False
        self._callback: Any = None
        self._last: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    def put(self, event: str, values: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Add an event; a full queue drops it."""
        try:
            self._queue.put_nowait((event, values, kwargs))
        except queue.Full:
            self.warn(f"is too slow: {WAITING} events wait for it, later ones are not shown to it")

    def finish(self) -> None:
        """Let the thread end after what waits; in a full queue an event makes room."""
        while True:
            try:
                self._queue.put_nowait(None)
                return
            except queue.Full:
                with contextlib.suppress(queue.Empty):
                    self._queue.get_nowait()

    def warn(self, told: str) -> None:
        """Log the one warning of this tracker."""
        if not self._has_warned:
            self._has_warned = True
            log.warning("the tracker %s %s; training goes on, and metrics.jsonl has every row", self._tracker, told)

    def run(self) -> None:
        """Make the callback and call it until the queue ends or a call fails."""
        try:
            self._callback = INTEGRATION_TO_CALLBACK[self._tracker]()
            if self._tracker == "tensorboard" and self._callback.logging_dir is None:
                self._callback.logging_dir = str(self._out_dir / "tensorboard")
            while (item := self._queue.get()) is not None:
                event, values, kwargs = item
                getattr(self._callback, event)(*values, **kwargs)
                self._last = None if event == "on_train_end" else (values, kwargs)
            if self._last is not None:  # a run that was stopped: trackers close their run at its end
                values, kwargs = self._last
                self._callback.on_train_end(*values, **{key: kwargs[key] for key in kwargs if key != "logs"})
            if self._tracker == "wandb":
                # transformers leaves the run open, and the next training of this process would go on in it.
                self._callback._wandb.finish()
        except Exception as error:
            self.warn(f"failed ({type(error).__name__}: {' '.join(str(error).split())[:200]})")
            self._drain()

    def _drain(self) -> None:
        while self._queue.get() is not None:
            pass
