"""How far the running stage of a run is, on disk, so that another terminal can look at it."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE = "progress.json"
WRITE_SECONDS = 0.5
WINDOW_SECONDS = 60.0
"""A rate is that of the last minute: what a stage did an hour ago tells little of how it goes now."""
UNITS = {
    **dict.fromkeys(("practice_model", "sft", "dpo", "reward_model"), "steps"),
    "sample": "samples",
}


@dataclass(frozen=True)
class StageProgress:
    """Where the running stage is.

    Attributes:
        label: Of the stage.
        unit: Of `done` and `total`: steps, samples or rows.
        begun: When this command came to it, seconds since 1970.
        done: Units done, those of an interrupted command included; None where the stage reports nothing.
        total: Units in all.
        rate: Units per second over the last minute; None where too little was seen.
        left: Seconds left of the stage; None where nothing tells.
        run_left: Seconds left of the run, those of stages of which something is known; None where nothing is.
        is_least: Whether stages are left out of `run_left` because nothing like them was measured.
        updated: When this was written.
    """

    label: str
    unit: str
    begun: float
    done: int | None
    total: int | None
    rate: float | None
    left: float | None
    run_left: float | None
    is_least: bool
    updated: float


class Pace:
    """The speed of a stage, from what it reports; what an interrupted command did before counts for nothing."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def see(self, done: int, now: float) -> None:
        """Note that `done` units are done."""
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[1][0] > WINDOW_SECONDS:
            self._seen.popleft()

    @property
    def rate(self) -> float | None:
        """Return units per second, None as long as less than two reports differ."""
        if len(self._seen) < 2:
            return None
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        return (after - before) / (last - first) if last > first and after > before else None


def write_progress(folder: Path, progress: StageProgress) -> None:
    """Write the file in one piece; it is not forced to the disk, since after a power cut nobody asks for it."""
    # A full disk stops the run where it writes results; a line for a person is no reason to stop it.
    with contextlib.suppress(OSError):
        work = folder / f".{FILE}.{os.getpid()}"
        work.write_text(json.dumps(asdict(progress)), encoding="utf-8")
        os.replace(work, folder / FILE)


def forget_progress(folder: Path) -> None:
    """Remove the file: no stage is running."""
    with contextlib.suppress(OSError):
        (folder / FILE).unlink(missing_ok=True)


def read_progress(folder: Path, row: Mapping[str, Any]) -> StageProgress | None:
    """Return the progress of a running stage of the record, None where there is none or it is of another stage."""
    try:
        progress = StageProgress(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # not there yet, or of another version
        return None
    return progress if progress.label == row["label"] and progress.begun >= row["started"] - 1.0 else None


def progress_text(progress: StageProgress, now: float | None = None) -> str:
    """Return `120 of 400 steps (30%) · 3.1 steps/s · 90 s left`, with what is known."""
    parts = []
    if progress.done is not None and progress.total:
        share = progress.done / progress.total
        parts.append(f"{progress.done:,} of {progress.total:,} {progress.unit} ({share:.0%})")
    if progress.rate is not None:
        parts.append(f"{rate_text(progress.rate)} {progress.unit}/s")
    if progress.left is not None:
        parts.append(f"{clock(since(progress.left, progress, now))} left")
    return " · ".join(parts)


def since(left: float, progress: StageProgress, now: float | None = None) -> float:
    """Return what is left of a time now that it was written a while ago."""
    return max(0.0, left - ((now or time.time()) - progress.updated))


def rate_text(rate: float) -> str:
    """Return a rate with two digits or more."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def clock(seconds: float) -> str:
    """Return `42 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
