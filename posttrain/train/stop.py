"""Stop at the end of a step when the machine is taken away: SIGTERM, or ctrl-C once.

transformers' `enable_jit_checkpoint` (5.23) does the like, but waits three seconds first, takes each process's own
flag, so that processes that hear the signal at different times save different steps, knows no SIGINT, and ends as a
training that was finished.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Hear SIGTERM and SIGINT inside the block, and note them instead of dying.

    A second SIGINT interrupts at once, except in a process that a launcher started: there a ctrl-C arrives twice, from
    the terminal and from the launcher. Outside the main thread no signal can be heard; the block then does nothing.

    Args:
        heard: called at the first signal.
    """

    def __init__(self, heard: Callable[[], None] | None = None) -> None:
        self.asked: str | None = None
        """Name of the first signal, None while there was none."""
        self._heard = heard
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked is None:
            self.asked = signal.Signals(number).name
            if self._heard is not None:
                self._heard()
        elif number == signal.SIGINT and "WORLD_SIZE" not in os.environ:
            raise KeyboardInterrupt


class StopAtStep(TrainerCallback):
    """Save and stop at the end of the step during which any process was asked to stop.

    Args:
        request: what this process has heard.
        reduce: adds a tensor up over all processes.
        saves: whether a checkpoint can be written.
    """

    def __init__(
        self, request: StopRequest, reduce: Callable[[torch.Tensor], torch.Tensor], saves: bool = True
    ) -> None:
        self._request = request
        self._reduce = reduce
        self._saves = saves
        self.step: int | None = None
        """The step after which training stopped, None if it did not."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Look for a request; all processes find the same."""
        asked = self._request.asked is not None
        if args.world_size > 1:
            asked = bool(self._reduce(torch.tensor(float(asked), device=args.device)) > 0)
        if asked:
            control.should_save = self._saves
            control.should_training_stop = True
            self.step = state.global_step
        return control
