"""The running batch: prompts come in by one prefill, all rows take a step together, finished rows leave.

Every shape that could change a number is fixed by the row itself, not by its neighbours: prefill widths and
attention spans are rounded up, and no matrix product has fewer than `ROW_MULTIPLE` rows. The products of the CPU
libraries sum in the same order for all such shapes, so in float32 a row's logits are the same bits in any batch.

Shapes: S slots, N rows of a pass, P prompts, T positions, U distinct last positions, V vocabulary, G tokens drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from posttrain.core.batching import pad_right
from synth.engines.base import Request, SamplingParams
from synth.engines.draw import draw_tokens, row_uniforms
from synth.engines.masks import step_masks
from synth.engines.slots import SlotCache

# Below eight rows the matrix libraries switch to matrix-vector kernels, whose sums differ in the last bits.
ROW_MULTIPLE = 8
SPAN_MULTIPLE = 32


@dataclass(frozen=True)
class FinishedRow:
    """Name a finished sample by its request and its place in it, with the ids drawn and why they ended."""

    request: Request
    place: int
    ids: tuple[int, ...]
    finish_reason: str


def prefill_width(num_tokens: int) -> int:
    """Round a prompt's length up to the width it is prefilled at: 16 steps per doubling, at least 16 apart."""
    step = 16
    while step * 16 < num_tokens:
        step *= 2
    return -(-num_tokens // step) * step


class RunningBatch:
    """Hold the rows that are being sampled.

    Args:
        model: a causal language model of transformers, in eval mode.
        params: the same for all rows.
        num_slots: most rows at a time, a multiple of `ROW_MULTIPLE`.
        capacity: most tokens of a row, prompt and completion together; rounded up.
    """

    def __init__(self, model: PreTrainedModel, params: SamplingParams, num_slots: int, capacity: int) -> None:
        self._model = model
        self._params = params
        self._config = model.config.get_text_config()
        self._device = model.device
        self._capacity = -(-capacity // SPAN_MULTIPLE) * SPAN_MULTIPLE
        self._cache = SlotCache(num_slots, self._capacity, self._device)
        self._owners: list[tuple[Request, int] | None] = [None] * num_slots
        self._alive_S = np.zeros(num_slots, dtype=bool)
        self._num_rows = 0
        self._next_S = torch.zeros(num_slots, dtype=torch.long, device=self._device)
        self._lengths_S = np.zeros(num_slots, dtype=np.int64)
        self._seeds_S = np.zeros(num_slots, dtype=np.uint64)
        self._drawn_S = np.zeros(num_slots, dtype=np.int64)
        self._tokens_SG = np.zeros((num_slots, params.max_completion_tokens), dtype=np.int64)
        self._stop_ids = np.array(params.stop_ids, dtype=np.int64)

    @property
    def num_active(self) -> int:
        """Count the rows that are not finished."""
        return int(self._alive_S.sum())

    @property
    def num_free(self) -> int:
        """Count the slots that a new row could take."""
        return len(self._owners) - self.num_active

    def admit(self, requests: Sequence[Request]) -> list[FinishedRow]:
        """Prefill each prompt once, give each of its samples a slot, and draw their first tokens.

        The prompts are to have one `prefill_width`, and their samples are to fit into the free slots.
        """
        rows = [(p, place) for p, request in enumerate(requests) for place in range(len(request.seeds))]
        slots = np.flatnonzero(~self._alive_S)[: len(rows)]
        lengths = [len(request.prompt_ids) for request in requests]
        prefilled, logits_PV = self._prefill(requests, lengths)
        for slot, (p, place) in zip(slots, rows, strict=True):
            self._owners[slot] = (requests[p], place)
            self._seeds_S[slot] = requests[p].seeds[place]
            self._lengths_S[slot] = lengths[p]
        self._alive_S[slots] = True
        self._drawn_S[slots] = 0
        owners_N = torch.tensor([p for p, _ in rows], device=self._device)
        slots_N = torch.from_numpy(slots).to(self._device)
        lengths_N = torch.tensor(lengths, device=self._device)[owners_N]
        self._cache.fill(slots_N, prefilled, owners_N, lengths_N)
        self._num_rows = max(self._num_rows, int(slots[-1]) + 1)
        return self._draw(slots, logits_PV[owners_N])

    def step(self) -> list[FinishedRow]:
        """Feed every row its last token and draw its next one."""
        num_rows = min(-(-self._num_rows // ROW_MULTIPLE) * ROW_MULTIPLE, len(self._owners))
        longest = int(self._lengths_S[:num_rows].max()) + 1
        span = -(-longest // SPAN_MULTIPLE) * SPAN_MULTIPLE
        self._cache.begin_step(num_rows, span)
        positions_N = self._cache.lengths_S[:num_rows].clone()
        logits_NV = self._model(
            input_ids=self._next_S[:num_rows, None],
            attention_mask=step_masks(self._config, positions_N, span, self._model.dtype),
            position_ids=positions_N[:, None],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, 0]
        active = np.flatnonzero(self._alive_S[:num_rows])
        active_N = torch.from_numpy(active).to(self._device)
        self._cache.end_step(active_N)
        self._lengths_S[active] += 1
        return self._draw(active, logits_NV if len(active) == num_rows else logits_NV[active_N])

    def compact(self) -> None:
        """Move the last rows into the holes that finished rows left, so that passes get smaller."""
        num_active = self.num_active
        holes = np.flatnonzero(~self._alive_S[:num_active])
        movers = num_active + np.flatnonzero(self._alive_S[num_active : self._num_rows])
        self._num_rows = num_active
        if not len(holes):
            return
        to_N, from_N = (torch.from_numpy(slots).to(self._device) for slots in (holes, movers))
        self._cache.move(from_N, to_N)
        self._next_S[to_N] = self._next_S[from_N]
        for array in (self._lengths_S, self._seeds_S, self._drawn_S, self._tokens_SG):
            array[holes] = array[movers]
        for hole, mover in zip(holes, movers, strict=True):
            self._owners[hole] = self._owners[mover]
        self._alive_S[holes] = True
        self._release(movers)

    @property
    def num_rows(self) -> int:
        """Count the rows of the next pass, dead ones between the active included."""
        return self._num_rows

    def _prefill(self, requests: Sequence[Request], lengths: list[int]) -> tuple[DynamicCache, torch.Tensor]:
        width = prefill_width(max(lengths))
        ids_PT, _ = pad_right([request.prompt_ids for request in requests], pad_id=0)
        ids_PT = torch.nn.functional.pad(ids_PT, (0, width - ids_PT.shape[1])).to(self._device)
        # Causal attention never looks right, so right padding needs no mask. The last layer is asked for the few
        # distinct last positions only, and for as many rows as keep its product above the matrix-vector kernels.
        kept = sorted({length - 1 for length in lengths})
        spare = -(-ROW_MULTIPLE // len(requests)) - len(kept)
        kept += [place for place in range(width) if place not in kept][: max(0, spare)]
        prefilled = DynamicCache()
        logits_PUV = self._model(
            input_ids=ids_PT,
            past_key_values=prefilled,
            use_cache=True,
            logits_to_keep=torch.tensor(kept, device=self._device),
        ).logits
        column = {place: u for u, place in enumerate(kept)}
        last_P = torch.tensor([column[length - 1] for length in lengths], device=self._device)
        return prefilled, logits_PUV[torch.arange(len(requests), device=self._device), last_P]

    def _draw(self, slots: np.ndarray, logits_NV: torch.Tensor) -> list[FinishedRow]:
        uniforms_N = row_uniforms(self._seeds_S[slots], self._drawn_S[slots].astype(np.uint64))
        drawn_N = draw_tokens(logits_NV, uniforms_N, self._params)
        self._next_S[torch.from_numpy(slots).to(self._device)] = drawn_N
        tokens_N = drawn_N.cpu().numpy()
        self._tokens_SG[slots, self._drawn_S[slots]] = tokens_N
        self._drawn_S[slots] += 1
        stopped_N = np.isin(tokens_N, self._stop_ids)
        done_N = stopped_N | (self._drawn_S[slots] >= self._params.max_completion_tokens)
        finished = [self._finished(int(slots[n]), bool(stopped_N[n])) for n in np.flatnonzero(done_N)]
        self._release(slots[done_N])
        return finished

    def _finished(self, slot: int, stopped: bool) -> FinishedRow:
        owner = self._owners[slot]
        assert owner is not None
        ids = tuple(self._tokens_SG[slot, : self._drawn_S[slot]].tolist())
        return FinishedRow(*owner, ids=ids, finish_reason="stop" if stopped else "length")

    def _release(self, slots: np.ndarray) -> None:
        """Free slots. At length 0 a dead row neither widens the span of the next pass nor runs past its slot."""
        if not len(slots):
            return
        self._alive_S[slots] = False
        self._lengths_S[slots] = 0
        for slot in slots:
            self._owners[slot] = None
        self._cache.free(torch.from_numpy(slots).to(self._device))
