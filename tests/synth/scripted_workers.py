"""Scripted engines for worker processes; imports nothing heavy, since every worker imports this file."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from posttrain.core.errors import ModelError
from synth.completions import run_job
from synth.engines.base import SamplingParams, refused_sample
from synth.engines.scripted import ScriptedEngine
from synth.sample_store import SampleStore
from synth.sampling_job import make_job
from synth.workers import draw_with_workers

PARAMS = SamplingParams(1.0, 1.0, 0, 8, ())


def prompts(count):
    return [{"prompt": f"question {i}", "id": f"q{i}"} for i in range(count)]


def log_call(folder: str, request, sample_index: int, seed: int) -> str:
    with open(f"{folder}/calls", "a") as file:
        file.write(f"{request.key} {sample_index} {os.getpid()}\n")
    return f"{request.key} {sample_index} {seed}"


class Opener:
    """Open a scripted engine in a worker; `fatal` is a prompt at which the worker kills itself, once or always."""

    def __init__(self, folder: Path, fatal: str | None = None, once: bool = True) -> None:
        self.folder, self.fatal, self.once = str(folder), fatal, once

    def __call__(self, number, num_workers):
        return ScriptedEngine(self.answer), None

    def answer(self, request, sample_index, seed):
        died = Path(self.folder, "died")
        if request.key == self.fatal and not (self.once and died.exists()):
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return log_call(self.folder, request, sample_index, seed)


class RefusingOpener:
    def __call__(self, number, num_workers):
        raise ModelError("no such model - here - give another")


class PickyEngine(ScriptedEngine):
    """Refuse q1."""

    def generate(self, requests, params):
        yield from super().generate([request for request in requests if request.key != "q1"], params)
        if any(request.key == "q1" for request in requests):
            (picked,) = [request for request in requests if request.key == "q1"]
            yield from (refused_sample(picked, place, "content filter") for place in range(len(picked.seeds)))


class PickyOpener:
    def __call__(self, number, num_workers):
        return PickyEngine(lambda request, sample_index, seed: f"{request.key} {sample_index}"), None


def draw(rows, out, opener, num_workers, num_completions=3, progress=None):
    job = make_job(rows, num_completions, PARAMS, 7, None, None)
    store = SampleStore(out, job.asked({"kind": "scripted", "model": "scripted"}))
    return run_job(
        job, store, "scripted", lambda done: draw_with_workers(job, store, done, opener, num_workers, progress)
    )


class SlowOpener(Opener):
    def answer(self, request, sample_index, seed):
        time.sleep(0.01)
        return super().answer(request, sample_index, seed)
