"""Scripted engines slow enough for a kill to hit them at work; workers import this file."""

from __future__ import annotations

import time

from scripted_workers import Opener


class SlowOpener(Opener):
    """Take 40 ms for a sample."""

    def answer(self, request, sample_index, seed):
        time.sleep(0.04)
        return super().answer(request, sample_index, seed)
