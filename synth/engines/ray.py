"""An engine on every worker of a Ray cluster, an optional extra: prompts go out, samples come back as they finish."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike

from posttrain.core.errors import ModelError
from posttrain.core.ray_pool import RayPool
from posttrain.core.ray_queue import deal
from synth.engines.base import (
    Engine,
    EngineError,
    ProbeReport,
    Request,
    Sample,
    SamplingParams,
    part_of,
    refused_sample,
)
from synth.workers import OpenEngine, OpenTransformers

# Given a device, return what opens the engine in a worker; picklable.
OpenOn = Callable[[str], OpenEngine]

# A chunk that killed its worker is cut into so many, until the prompt that does it stands alone.
PARTS = 8


@dataclass(frozen=True)
class Chunk:
    """Hold what a worker is given at a time: requests, each with all its missing samples."""

    requests: tuple[Request, ...]
    params: SamplingParams


@dataclass(frozen=True)
class OpenWorker:
    """Open the engine of a worker, which must be the one that the driver speaks for."""

    open_on: OpenOn
    identity: dict[str, str]

    def __call__(self, number: int, sharing: int, device: str) -> Callable[[Chunk], Iterator[Sample]]:
        """Return what samples a chunk."""
        node = socket.gethostname()
        try:
            engine, _ = self.open_on(device)(number, sharing)
        except ModelError as error:
            raise ModelError(
                f"node {node}: {error} - a model folder must be readable at the same path on every node: mount or "
                "copy it there"
            ) from error
        if engine.identity != self.identity:
            raise EngineError(
                f"node {node} samples with {engine.identity}, this process speaks for {self.identity} - the files at "
                "the model's path differ: copy the model there anew"
            )
        return lambda chunk: engine.generate(chunk.requests, chunk.params)


class RayEngine:
    """Sample on the workers of a Ray cluster with the engine that `like` is.

    Where a sample is drawn is not its identity: a run begun here may be finished in one process, and the other way
    round. A worker or node that dies costs the samples under way; a prompt that kills two workers is refused.

    Args:
        like: the same engine in this process, for its kind, model and identity; it draws nothing.
        open_on: given a device, return what opens the engine in a worker.
        num_workers: most workers at a time.
        address: of the cluster: "auto", "host:port" or "ray://host:port".
        device: "cpu", "cuda", or "auto": an accelerator where the cluster has one.

    Use it as a context, or close it: its workers hold models.
    """

    probe: ProbeReport | None = None  # each worker's engine is checked there

    def __init__(self, like: Engine, open_on: OpenOn, num_workers: int, address: str, device: str = "auto") -> None:
        self.kind = like.kind
        self.model = like.model
        self.context_tokens = like.context_tokens
        self.identity = like.identity
        self.num_workers = num_workers
        self.address = address
        self.device = device
        self._open_on = open_on
        # Made at the first request: a run that is complete already needs no cluster.
        self._pool: RayPool[Chunk] | None = None

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Sample]:
        """Yield the samples as they arrive; those of prompts that killed two workers are refused.

        Raises:
            ClusterError: there is no cluster, or its workers keep dying.
        """
        if self._pool is None:
            opener = OpenWorker(self._open_on, self.identity)
            self._pool = RayPool(self.address, self.num_workers, opener, self.device)
        chunks = [Chunk(tuple(part), params) for part in deal(requests, self.num_workers)]
        refused: list[Sample] = []

        def give_up(chunk: Chunk, reason: str) -> None:
            every = ((request, place) for request in chunk.requests for place in range(len(request.seeds)))
            refused.extend(refused_sample(request, place, reason) for request, place in every)

        for results in self._pool.run(chunks, unfinished, give_up):
            yield from results
            yield from refused
            refused.clear()
        yield from refused

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ray_engine(
    model_dir: str | PathLike[str], dtype: str, device: str, max_batch_tokens: int, num_workers: int, address: str
) -> RayEngine:
    """Return the embedded engine of a model folder, run by the workers of a cluster."""
    from synth.engines.transformers import TransformersEngine  # here: workers of other engines need no torch

    folder = os.path.abspath(model_dir)  # workers start in another folder
    open_on = partial(OpenTransformers, folder, dtype, max_batch_tokens=max_batch_tokens)
    return RayEngine(TransformersEngine(folder, dtype), open_on, num_workers, address, device)


def unfinished(chunk: Chunk, results: Sequence[Sample], apart: bool) -> list[Chunk]:
    """Return what of a chunk has no answer yet, in up to `PARTS` chunks where `apart` is set."""
    drawn = {(sample.key, sample.sample_index) for sample in results}
    left = [part for request in chunk.requests if (part := _without(request, drawn)).seeds]
    size = max(-(-len(left) // (PARTS if apart else 1)), 1)
    return [replace(chunk, requests=tuple(left[start : start + size])) for start in range(0, len(left), size)]


def _without(request: Request, drawn: set[tuple[str, int]]) -> Request:
    places = [place for place, index in enumerate(request.sample_indices) if (request.key, index) not in drawn]
    return part_of(request, places)
