"""Workers slow enough for a kill to hit two of them at work; worker processes import this file."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from scripted_workers import Opener

from reward.score_ray import OpenRewardModel


def wait_for_another(folder: str, number: int) -> None:
    """Return once two workers are open, so that neither has done everything before the other begins."""
    Path(folder, f"opened-{number}").touch()
    deadline = time.monotonic() + 100
    while len(list(Path(folder).glob("opened-*"))) < 2:
        assert time.monotonic() < deadline, "the other worker never opened"
        time.sleep(0.01)


class SlowOpener(Opener):
    """Take 40 ms for a sample."""

    def __call__(self, number, num_workers):
        wait_for_another(self.folder, number)
        return super().__call__(number, num_workers)

    def answer(self, request, sample_index, seed):
        time.sleep(0.04)
        return super().answer(request, sample_index, seed)


@dataclass(frozen=True)
class SlowRewardModel(OpenRewardModel):
    """Take 2 ms for a row besides scoring it."""

    folder: str = ""

    def __call__(self, number, sharing, device):
        work = super().__call__(number, sharing, device)
        wait_for_another(self.folder, number)

        def slow_work(task):
            for entry in work(task):
                time.sleep(0.002)
                yield entry

        return slow_work
