"""What a person sees while a run is going: the stage, its progress, and the time left for it and for the run."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TextIO

from posttrain.estimate import estimate
from posttrain.progress import (
    UNITS,
    WRITE_SECONDS,
    Pace,
    StageProgress,
    clock,
    forget_progress,
    progress_text,
    write_progress,
)
from posttrain.stages import Progress
from posttrain.store.artifacts import ArtifactStore

REDRAW_SECONDS = 0.2


class LiveWatcher:
    """Print a line per finished stage; on a terminal a live line below shows the running one.

    The same is on disk for `posttrain status --watch`. The time left for a run is what its waiting stages should take:
    seconds per token (or row) of the last stage of the same name, times the tokens planned; for a stage that this run
    has not come by, the median of earlier artifacts. Stages of which nothing was measured are left out, and the sum is
    then called a least one.

    Args:
        planned: The stages of the plan, in order.
        store: Where earlier artifacts lie.
        folder: The run's folder, for the progress on disk; it may be not there yet.
        stream: Where lines go; standard error when absent.
    """

    def __init__(
        self, planned: Sequence[Mapping[str, Any]], store: ArtifactStore, folder: Path, stream: TextIO | None = None
    ) -> None:
        self.stream = stream or sys.stderr
        self.is_live = self.stream.isatty()
        self.folder = folder
        self.sizes = {row["label"]: float(row["tokens"] or row["rows"] or 0) for row in estimate(planned)}
        self.waiting = [(row["label"], row["stage"]) for row in planned if row["status"] == "run"]
        self.num_stages = len(planned)
        self.position = 0
        self.measured: dict[str, tuple[float, float]] = {}  # seconds and size of the last stage of a name
        self.earlier: dict[str, float] = {}
        for stage in {name for _, name in self.waiting}:
            known = [manifest["seconds"] for _, manifest in store.manifests(stage)]
            if known:
                self.earlier[stage] = median(known)
        self.drawn_at = 0.0
        self.num_hits = 0

    def started(self, label: str, name: str) -> Progress:
        """Announce a stage and return where its progress goes."""
        begun, pace, written = time.time(), Pace(), 0.0
        if not self.is_live:
            self._say(f"      … {label}")
        first = self._progress(label, name, begun, None, None, pace)
        write_progress(self.folder, first)
        self._show(first)

        def progress(done: int, total: int) -> None:
            nonlocal written
            now = time.time()
            ends = done >= total
            if not total or (now - written < WRITE_SECONDS and not ends):
                return
            written = now
            pace.see(done, now)
            state = self._progress(label, name, begun, done, total, pace)
            write_progress(self.folder, state)
            self._show(state)

        return progress

    def finished(self, label: str, name: str, status: str, seconds: float) -> None:
        """Announce that a stage ended as `hit` or `ran`."""
        self.position += 1
        self.waiting = [item for item in self.waiting if item[0] != label]
        if status == "hit":
            self.num_hits += 1
            return
        forget_progress(self.folder)
        self.measured[name] = seconds, self.sizes.get(label, 0.0)
        self._draw("")
        left, is_least = self._waiting_seconds()
        self._say(f"{self._counter()} {label}  {seconds:.1f} s{_run_left(left, is_least)}")

    def _progress(
        self, label: str, name: str, begun: float, done: int | None, total: int | None, pace: Pace
    ) -> StageProgress:
        now = time.time()
        rate, guess = pace.rate, self._guess(label, name)
        left = None if guess is None else max(0.0, guess - (now - begun))
        if rate is not None and done is not None and total is not None:
            left = (total - done) / rate
        others, is_least = self._waiting_seconds(label)
        run_left = others + (left or 0.0)
        return StageProgress(
            label,
            UNITS.get(name, "rows"),
            begun,
            done,
            total,
            rate,
            left,
            run_left if run_left > 0 else None,
            is_least or left is None,
            now,
        )

    def _counter(self, ahead: int = 0) -> str:
        return f"[{min(self.position + ahead, self.num_stages):>3}/{self.num_stages}]"

    def _waiting_seconds(self, running: str | None = None) -> tuple[float, bool]:
        """Return what the waiting stages but the running one should take, and whether some are left out."""
        guesses = [self._guess(label, stage) for label, stage in self.waiting if label != running]
        return sum(guess for guess in guesses if guess is not None), None in guesses

    def _guess(self, label: str, stage: str) -> float | None:
        if stage not in self.measured:
            return self.earlier.get(stage)
        seconds, size = self.measured[stage]
        planned = self.sizes.get(label, 0.0)
        return seconds * planned / size if size and planned else seconds  # of unknown size: as long as the last one

    def _show(self, progress: StageProgress) -> None:
        now = time.time()
        if self.is_live and (progress.done is None or now - self.drawn_at >= REDRAW_SECONDS):
            self.drawn_at = now
            run_left = _run_left(progress.run_left or 0.0, progress.is_least)
            self._draw(f"{self._counter(1)} {progress.label} {progress_text(progress) or '…'}{run_left}")

    def _say(self, line: str) -> None:
        print(line, file=self.stream, flush=True)

    def _draw(self, line: str) -> None:
        if self.is_live:
            print(f"\r\x1b[2K{line}", end="", file=self.stream, flush=True)


def _run_left(seconds: float, is_least: bool) -> str:
    return f"  · run {'at least ' if is_least else ''}{clock(seconds)} left" if seconds > 0 else ""
