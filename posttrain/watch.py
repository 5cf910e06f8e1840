"""What a person sees while a run is going: the stage, its progress, and the time left for it and for the run."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, TextIO

from posttrain.estimate import estimate
from posttrain.stages import Progress
from posttrain.store.artifacts import ArtifactStore

REDRAW_SECONDS = 0.2


class LiveWatcher:
    """Print a line per finished stage; on a terminal a live line below shows the running one.

    The time left for a run is what its waiting stages should take: seconds per token (or row) of the last stage of the
    same name, times the tokens planned; for a stage that this run has not come by, the median of earlier artifacts.
    Stages of which nothing was measured are left out, and the sum is then called a least one.
    """

    def __init__(
        self, planned: Sequence[Mapping[str, Any]], store: ArtifactStore, stream: TextIO | None = None
    ) -> None:
        self.stream = stream or sys.stderr
        self.is_live = self.stream.isatty()
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
        begin = time.time()
        if not self.is_live:
            self._say(f"      … {label}")

        def progress(done: int, total: int) -> None:
            now = time.time()
            if not self.is_live or now - self.drawn_at < REDRAW_SECONDS or not total:
                return
            self.drawn_at = now
            share = done / total
            left = f"{_clock((now - begin) / share * (1 - share))} left" if share > 0.02 else ""
            self._draw(f"{self._counter(1)} {label} {share:4.0%} {left}{self._run_left(name, begin)}")

        if self.is_live:
            self._draw(f"{self._counter(1)} {label} …{self._run_left(name, begin)}")
        return progress

    def finished(self, label: str, name: str, status: str, seconds: float) -> None:
        """Announce that a stage ended as `hit` or `ran`."""
        self.position += 1
        self.waiting = [item for item in self.waiting if item[0] != label]
        if status == "hit":
            self.num_hits += 1
            return
        self.measured[name] = seconds, self.sizes.get(label, 0.0)
        self._draw("")
        self._say(f"{self._counter()} {label}  {seconds:.1f} s{self._run_left(None, time.time())}")

    def _counter(self, ahead: int = 0) -> str:
        return f"[{min(self.position + ahead, self.num_stages):>3}/{self.num_stages}]"

    def _run_left(self, running: str | None, begin: float) -> str:
        """Return the time left for the run: what waiting stages should take, less what the running one has taken."""
        guesses = [self._guess(label, stage) for label, stage in self.waiting]
        total = sum(guess for guess in guesses if guess is not None)
        if running is not None:
            total -= time.time() - begin
        least = "at least " if None in guesses else ""
        return f"  · run {least}{_clock(total)} left" if total > 0 else ""

    def _guess(self, label: str, stage: str) -> float | None:
        if stage not in self.measured:
            return self.earlier.get(stage)
        seconds, size = self.measured[stage]
        planned = self.sizes.get(label, 0.0)
        return seconds * planned / size if size and planned else seconds  # of unknown size: as long as the last one

    def _say(self, line: str) -> None:
        print(line, file=self.stream, flush=True)

    def _draw(self, line: str) -> None:
        if self.is_live:
            print(f"\r\x1b[2K{line}", end="", file=self.stream, flush=True)


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
