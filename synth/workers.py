"""Sampling by several processes of this machine: each its share of the prompts, its own model, its own journal."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

from posttrain.core.atomic import PathLike
from posttrain.core.errors import PosttrainError
from synth.completions import Report, SamplingSummary, draw_missing, run_job
from synth.engines.base import Engine, EngineError, SamplingParams
from synth.prompt_sources import Prompts
from synth.sample_index import SampleIndex
from synth.sample_store import SampleStore
from synth.sampling_job import Job, make_job

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Given the worker's number and the number of workers, make its engine; sent to the process, so picklable.
OpenEngine = Callable[[int, int], "tuple[Engine, PreTrainedTokenizerBase | None]"]


@dataclass(frozen=True)
class OpenTransformers:
    """Open the embedded engine in a worker: an equal share of the threads, accelerators in turn."""

    model_dir: PathLike
    dtype: str
    device: str
    max_batch_tokens: int

    def __call__(self, number: int, num_workers: int) -> tuple[Engine, PreTrainedTokenizerBase]:
        """Make the engine and tokenizer of worker `number`."""
        import torch  # here, so that the parent needs no torch

        from posttrain.core.chat import load_tokenizer
        from synth.engines.transformers import TransformersEngine

        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // num_workers))
        device = self.device
        if device == "cuda":
            device = f"cuda:{number % torch.cuda.device_count()}"
        engine = TransformersEngine(self.model_dir, self.dtype, device, self.max_batch_tokens)
        return engine, load_tokenizer(self.model_dir)


def sample_with_workers(
    prompts: Prompts,
    model_dir: PathLike,
    num_completions: int,
    params: SamplingParams,
    seed: int,
    out_dir: PathLike,
    num_workers: int,
    dtype: str = "float32",
    device: str = "cpu",
    max_batch_tokens: int = 32768,
    max_prompt_tokens: int | None = None,
    date: str | None = None,
    progress: Report | None = None,
) -> SamplingSummary:
    """Do what `sample_completions` does with the embedded engine, in `num_workers` processes.

    In float32 on CPU the files are those of one process, and the number of workers may change between a kill and
    the next call.

    Raises:
        DataError: as `sample_completions` does.
        EngineError: workers ended without finishing a sample; what was drawn before is kept.
    """
    from posttrain.core.model_files import model_hash

    identity = {"kind": "transformers", "model": model_hash(model_dir), "dtype": dtype}
    opener = OpenTransformers(model_dir, dtype, device, max_batch_tokens)
    job = make_job(prompts, num_completions, params, seed, max_prompt_tokens, date)
    return sample_in_processes(job, opener, identity, out_dir, num_workers, progress)


def sample_in_processes(
    job: Job,
    opener: OpenEngine,
    identity: Mapping[str, str],
    out_dir: PathLike,
    num_workers: int,
    progress: Report | None = None,
) -> SamplingSummary:
    """Do what `sample_completions` does with engines that `opener` makes, in `num_workers` processes.

    Args:
        identity: that of the engines.

    Raises:
        DataError: as `sample_completions` does.
        EngineError: workers ended without finishing a sample; what was drawn before is kept.
    """
    store = SampleStore(out_dir, job.asked(identity))

    def draw(done: SampleIndex) -> None:
        draw_with_workers(job, store, done, opener, num_workers, progress)

    return run_job(job, store, identity["model"], draw)


def draw_with_workers(
    job: Job, store: SampleStore, done: SampleIndex, opener: OpenEngine, num_workers: int, progress: Report | None
) -> None:
    """Draw what is missing, in rounds: what a worker that was killed left behind goes to the next round's workers."""
    while shares := shares_of(job, done, num_workers):
        exits = _round(shares, store, done, opener, num_workers, progress, job.num_samples)
        after = store.index(job.prompts, job.num_completions)
        if (after.num_samples, after.num_refused) == (done.num_samples, done.num_refused):
            raise EngineError(
                f"the workers ended without a sample (exit codes {exits}) - of {done.num_missing} missing - see what "
                "they printed above; a killed worker often means too little memory: lower --workers or "
                "max_batch_tokens, then run the same again"
            )
        done = after


def shares_of(job: Job, done: SampleIndex, num_workers: int) -> dict[int, Job]:
    """Deal the prompts that lack samples out in turn; workers that would get none are left out."""
    lacking = sum(bool(done.missing(place)) for place in range(len(job.prompts)))
    count = min(num_workers, lacking)
    return {number: replace(job, share=(number, count)) for number in range(count)}


def _round(
    shares: Mapping[int, Job],
    store: SampleStore,
    done: SampleIndex,
    opener: OpenEngine,
    num_workers: int,
    progress: Report | None,
    total: int,
) -> list[int | None]:
    """Run one process per share until all have ended; return their exit codes."""
    context = multiprocessing.get_context("spawn")
    processes: list[BaseProcess] = []
    pipes: dict[Connection, int] = {}
    try:
        for number, share in shares.items():
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(number, num_workers, share, store, done, opener, theirs))
            process.start()
            theirs.close()  # so that the worker's end alone keeps the pipe open
            processes.append(process)
            pipes[ours] = 0
        _listen(pipes, total - done.num_missing, total, progress)
    finally:
        _end(processes)
    return [process.exitcode for process in processes]


def _listen(pipes: dict[Connection, int], before: int, total: int, progress: Report | None) -> None:
    """Pass the workers' counts on until every pipe is closed; raise the first error that a worker sends."""
    open_pipes = set(pipes)
    while open_pipes:
        for pipe in wait(open_pipes):
            assert isinstance(pipe, Connection)
            try:
                message = pipe.recv()
            except EOFError:  # the worker ended, or was killed
                open_pipes.discard(pipe)
                continue
            if isinstance(message, PosttrainError):
                raise message
            pipes[pipe] = message
            if progress is not None:
                progress(before + sum(pipes.values()), total)


def _end(processes: Sequence[BaseProcess]) -> None:
    # Terminating a worker that has ended does nothing; one that has not is of no use after an error elsewhere.
    for process in processes:
        if process.exitcode is None:
            process.join(timeout=1)
        process.terminate()
    for process in processes:
        process.join()


def _work(
    number: int,
    num_workers: int,
    share: Job,
    store: SampleStore,
    done: SampleIndex,
    opener: OpenEngine,
    pipe: Connection,
) -> None:
    """Be a worker: sample a share into a journal of its own."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        engine, tokenizer = opener(number, num_workers)
        before = share.num_samples - done.num_missing
        with store.journal(f"worker_{number}") as journal:
            draw_missing(share, done, engine, tokenizer, journal, lambda count, _: pipe.send(count - before))
    except PosttrainError as error:
        pipe.send(error)  # the parent shows it; anything else is a fault of ours and prints its traceback here
    finally:
        pipe.close()


def _end_with_parent() -> None:
    """Leave when the parent was killed: a worker must not write on while the next run reads its journal."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
