"""The embedded engine: samples from a Hugging Face folder in this process, on CPU or an accelerator."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from posttrain.core.chat import decode_completion, load_tokenizer
from posttrain.core.model_files import model_hash
from posttrain.core.models import load_causal_lm, load_config
from posttrain.core.packed_linear import pack_linears
from synth.engines.base import ProbeReport, Request, Sample, SamplingParams
from synth.engines.probe import choose_attention, require_known_layers, take_probe
from synth.engines.running import FinishedRow, RunningBatch, context_of, prefill_width
from synth.engines.step import span_of

# New rows enter when this share of the slots is free: seldom enough that prefills are batches, often enough that
# passes stay large.
REFILL_SHARE = 0.125
# Tokens of one prefill, which holds at least one prompt: enough rows for large products, few enough for the cache of a
# processor.
PREFILL_TOKENS = 2048
# Prompts of one prefill: each keeps a row of logits for every length among them.
PREFILL_PROMPTS = 32
# Prompt places for this many times the prompts that the slots' rows would make if each had all its samples running:
# a prompt stays until its longest sample ends.
PROMPT_ROOM = 2.0


class TransformersEngine:
    """Sample with a key-value cache allocated once, each prompt prefilled once for all its samples.

    A sample depends on the weights, the prompt, the parameters and its seed; in float32 on CPU not on the batch
    size, its neighbours, the order of the requests, or what was drawn before.

    Args:
        model_dir: a Hugging Face folder (config, safetensors, tokenizer with chat template).
        dtype: of weights, activations and cache: "float32", "bfloat16", …
        device: "cpu", "cuda", …
        max_batch_tokens: tokens that the cache holds at a time, over all prompts and rows.

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
        self.context_tokens: int | None = context_of(config)
        self.identity = {"kind": self.kind, "model": self.model, "dtype": dtype}
        self.probe: ProbeReport | None = None
        # Loaded at the first request: a run that is complete already opens no weights.
        self._loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Sample]:
        """Yield the samples as they finish; long prompts first."""
        model, tokenizer = self._load()
        for plan in plan_batches(requests, params.max_completion_tokens, self.max_batch_tokens):
            longest = len(plan.requests[0].prompt_ids)
            batch = RunningBatch(model, params, plan.num_slots, plan.num_prompts, longest)
            for row in _run(batch, deque(_split(plan.requests, plan.num_slots)), plan.num_slots):
                yield _sample(row, tokenizer, params.stop_ids)

    def _load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        if self._loaded is None:
            model = load_causal_lm(self.model_dir, dtype=self.dtype, device=self.device)
            tokenizer = load_tokenizer(self.model_dir)
            probe = take_probe(model, tokenizer)
            pack_linears(model)
            difference = choose_attention(model, probe, str(self.model_dir))
            self.probe = ProbeReport(checked=True, difference=difference, reason=None)
            self._loaded = (model, tokenizer)
        return self._loaded


@dataclass(frozen=True)
class BatchPlan:
    """Hold requests of like length, longest first, and how many rows and prompts may run at a time."""

    requests: list[Request]
    num_slots: int
    num_prompts: int


def plan_batches(requests: Sequence[Request], max_completion_tokens: int, max_batch_tokens: int) -> Iterator[BatchPlan]:
    """Group requests whose samples take memory within a factor of two, so that one long prompt costs no other its slot.

    A sample takes room for its longest completion, and its share of room for its prompt.
    """
    ordered = sorted(requests, key=lambda request: (-len(request.prompt_ids), request.key))
    while ordered:
        num_samples = max(1.0, sum(len(request.seeds) for request in ordered) / len(ordered))

        def room(request: Request, num_samples: float = num_samples) -> float:
            # A prompt that runs has a row that runs, so that more prompts than rows never do.
            prompts_per_row = min(PROMPT_ROOM / num_samples, 1.0)
            return span_of(max_completion_tokens) + prompts_per_row * span_of(prefill_width(len(request.prompt_ids)))

        most = room(ordered[0])
        group = [request for request in ordered if room(request) > most / 2]
        ordered = ordered[len(group) :]
        wanted = sum(len(request.seeds) for request in group)
        num_slots = min(max(int(max_batch_tokens / most), 1), wanted)
        if wanted:
            parts = sum(-(-len(request.seeds) // num_slots) for request in group)
            num_prompts = math.ceil(PROMPT_ROOM * num_slots * len(group) / wanted) + 1
            yield BatchPlan(group, num_slots, min(num_prompts, num_slots, parts))


def _split(requests: Sequence[Request], num_slots: int) -> Iterator[Request]:
    """Cut requests of more samples than there are slots."""
    for request in requests:
        for start in range(0, len(request.seeds), num_slots):
            part = slice(start, start + num_slots)
            yield replace(request, seeds=request.seeds[part], sample_indices=request.sample_indices[part])


@torch.inference_mode()
def _next_rows(batch: RunningBatch, pending: deque[Request], num_slots: int) -> list[FinishedRow]:
    """Let new rows in where enough slots are free, else take a step."""
    if pending:
        wanted = max(math.ceil(num_slots * REFILL_SHARE), len(pending[0].seeds))
        if batch.num_active == 0 or (batch.num_free >= wanted and batch.num_free_prompts):
            return batch.admit(_take(pending, batch.num_free, batch.num_free_prompts))
    return batch.step()


def _run(batch: RunningBatch, pending: deque[Request], num_slots: int) -> Iterator[FinishedRow]:
    # inference_mode must not stay open while a generator is suspended, hence one call per pass.
    while pending or batch.num_active:
        yield from _next_rows(batch, pending, num_slots)


def _take(pending: deque[Request], num_free: int, num_free_prompts: int) -> list[Request]:
    """Take the next requests that fit into the free slots and prompt places and share one prefill width."""
    width = prefill_width(len(pending[0].prompt_ids))
    taken: list[Request] = []
    while (
        pending
        and len(taken) < min(num_free_prompts, PREFILL_PROMPTS, max(1, PREFILL_TOKENS // width))
        and prefill_width(len(pending[0].prompt_ids)) == width
        and len(pending[0].seeds) <= num_free
    ):
        num_free -= len(pending[0].seeds)
        taken.append(pending.popleft())
    return taken


def _sample(row: FinishedRow, tokenizer: PreTrainedTokenizerBase, stops: Sequence[int]) -> Sample:
    return Sample(
        key=row.request.key,
        sample_index=row.request.sample_indices[row.place],
        text=decode_completion(tokenizer, row.ids, stops),
        ids=row.ids,
        finish_reason=row.finish_reason,
        num_tokens=len(row.ids),
        seed=row.request.seeds[row.place],
    )
