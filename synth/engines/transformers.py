"""The embedded engine: samples from a Hugging Face folder in this process, on CPU or an accelerator."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from os import PathLike

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from posttrain.core.chat import decode_completion, load_tokenizer
from posttrain.core.model_files import model_hash
from posttrain.core.models import load_causal_lm, load_config
from synth.engines.base import Request, Sample, SamplingParams
from synth.engines.masks import require_known_layers
from synth.engines.running import ROW_MULTIPLE, FinishedRow, RunningBatch, prefill_width

# New rows enter when this share of the slots is free: seldom enough that prefills are batches, often enough that
# few rows of a pass are dead.
REFILL_SHARE = 0.25
# Passes are made smaller when this share of their rows is dead and nothing waits.
DEAD_SHARE = 0.125


class TransformersEngine:
    """Sample with a key-value cache allocated once, each prompt prefilled once for all its samples.

    A sample depends on the weights, the prompt, the parameters and its seed; in float32 on CPU not on the batch
    size, its neighbours, the order of the requests, or what was drawn before.

    Args:
        model_dir: a Hugging Face folder (config, safetensors, tokenizer with chat template).
        dtype: of weights, activations and cache: "float32", "bfloat16", …
        device: "cpu", "cuda", …
        max_batch_tokens: tokens that the cache holds at a time, over all rows.

    Attributes:
        model: content hash of the folder.
        context_tokens: longest prompt and completion together.

    Raises:
        ModelError: the folder cannot be used, or the model keeps no plain key-value cache.
    """

    kind = "transformers"

    def __init__(
        self, model_dir: str | PathLike[str], dtype: str = "float32", device: str = "cpu", max_batch_tokens: int = 32768
    ) -> None:
        self.model_dir = model_dir
        self.dtype = dtype
        self.device = device
        self.max_batch_tokens = max_batch_tokens
        self.model = model_hash(model_dir)
        config = load_config(model_dir).get_text_config()
        require_known_layers(config)
        self.context_tokens: int | None = getattr(config, "max_position_embeddings", None)
        self.identity = {"kind": self.kind, "model": self.model, "dtype": dtype}
        # Loaded at the first request: a run that is complete already opens no weights.
        self._loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Sample]:
        """Yield the samples as they finish; long prompts first."""
        model, tokenizer = self._load()
        for capacity, band in _bands(requests, params.max_completion_tokens):
            num_samples = sum(len(request.seeds) for request in band)
            num_slots = min(max(self.max_batch_tokens // capacity, 1), num_samples)
            num_slots = -(-num_slots // ROW_MULTIPLE) * ROW_MULTIPLE
            batch = RunningBatch(model, params, num_slots, capacity)
            for row in _run(batch, deque(_split(band, num_slots)), num_slots):
                yield _sample(row, tokenizer)

    def _load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        if self._loaded is None:
            model = load_causal_lm(self.model_dir, dtype=self.dtype, device=self.device)
            self._loaded = (model, load_tokenizer(self.model_dir))
        return self._loaded


def _bands(requests: Sequence[Request], max_completion_tokens: int) -> Iterator[tuple[int, list[Request]]]:
    """Group requests whose longest rows lie within a factor of two, so that one long prompt costs no other its slot.

    Yields:
        The tokens of the band's longest row, and its requests by falling length.
    """
    ordered = sorted(requests, key=lambda request: (-len(request.prompt_ids), request.key))
    while ordered:
        capacity = len(ordered[0].prompt_ids) + max_completion_tokens
        band = [request for request in ordered if len(request.prompt_ids) + max_completion_tokens > capacity // 2]
        ordered = ordered[len(band) :]
        yield capacity, band


def _split(requests: Sequence[Request], num_slots: int) -> Iterator[Request]:
    """Cut requests of more samples than there are slots."""
    for request in requests:
        for start in range(0, len(request.seeds), num_slots):
            part = slice(start, start + num_slots)
            yield replace(request, seeds=request.seeds[part], sample_indices=request.sample_indices[part])


@torch.inference_mode()
def _next_rows(batch: RunningBatch, pending: deque[Request], num_slots: int) -> list[FinishedRow]:
    """Let new rows in where enough slots are free, else take a step."""
    wanted = math.ceil(num_slots * REFILL_SHARE)
    if pending and (batch.num_active == 0 or batch.num_free >= max(wanted, len(pending[0].seeds))):
        return batch.admit(_take(pending, batch.num_free))
    if not pending and batch.num_active < batch.num_rows * (1 - DEAD_SHARE):
        batch.compact()
    return batch.step()


def _run(batch: RunningBatch, pending: deque[Request], num_slots: int) -> Iterator[FinishedRow]:
    # inference_mode must not stay open while a generator is suspended, hence one call per pass.
    while pending or batch.num_active:
        yield from _next_rows(batch, pending, num_slots)


def _take(pending: deque[Request], num_free: int) -> list[Request]:
    """Take the next requests that fit into the free slots and share one prefill width."""
    width = prefill_width(len(pending[0].prompt_ids))
    taken: list[Request] = []
    while pending and prefill_width(len(pending[0].prompt_ids)) == width and len(pending[0].seeds) <= num_free:
        num_free -= len(pending[0].seeds)
        taken.append(pending.popleft())
    return taken


def _sample(row: FinishedRow, tokenizer: PreTrainedTokenizerBase) -> Sample:
    return Sample(
        key=row.request.key,
        sample_index=row.request.sample_indices[row.place],
        text=decode_completion(tokenizer, list(row.ids)),
        ids=row.ids,
        finish_reason=row.finish_reason,
        num_tokens=len(row.ids),
        seed=row.request.seeds[row.place],
    )
