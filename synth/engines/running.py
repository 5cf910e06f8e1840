"""The running batch: prompts come in by one prefill, all rows take a step together, finished rows leave.

Every shape that could change a number is fixed by the row itself, not by its neighbours: prefill widths and
attention spans are rounded up, and no matrix product has fewer than `ROW_MULTIPLE` rows. The products of the CPU
libraries sum in the same order for all such shapes, so in float32 a row's logits are the same bits in any batch.

Shapes: S slots, P prompt places, N rows of a pass, U distinct last positions, T positions, V vocabulary, G tokens
drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel

from posttrain.core.batching import pad_right
from posttrain.core.row_angles import follows_length
from synth.engines.assembled import AssembledCache, step_masks
from synth.engines.base import Request, SamplingParams
from synth.engines.draw import draw_tokens, row_uniforms
from synth.engines.slots import SlotCache
from synth.engines.step import ATTENTION, PromptRun, Step, num_columns, prompt_runs, run_bounds, slot_runs, span_of

# Below eight rows the matrix libraries switch to matrix-vector kernels, whose sums differ in the last bits.
ROW_MULTIPLE = 8
# Every so many steps the rows are put in the order of their ages, where that saves more than it costs.
ARRANGE_EVERY = 8

Draw = Callable[[Tensor, np.ndarray, SamplingParams], Tensor]


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


def context_of(config: PretrainedConfig) -> int | None:
    """Give the tokens that prompt and completion may have together, None where the configuration does not say.

    Where positions are stretched as a row grows longer ('dynamic', 'longrope'), this is the length up to which they are
    not: beyond it the keys that a row has in store would have been turned by other angles than its next token.
    """
    context = getattr(config, "max_position_embeddings", None)
    if follows_length(config):
        rope = config.rope_parameters
        original = rope.get("original_max_position_embeddings") or getattr(
            config, "original_max_position_embeddings", None
        )
        return min(context, original) if context and original else original or context
    return context


class RunningBatch:
    """Hold the rows that are being sampled.

    Args:
        model: a causal language model of transformers, in eval mode; where its attention implementation is ours,
            steps attend over slots, else the model attends over assembled keys and values.
        params: the same for all rows.
        num_slots: most rows at a time.
        num_prompts: most prompts at a time.
        longest_prompt: tokens of the longest prompt.
        draw: from logits, uniform numbers and parameters to token ids.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        params: SamplingParams,
        num_slots: int,
        num_prompts: int,
        longest_prompt: int,
        draw: Draw = draw_tokens,
    ) -> None:
        self._model = model
        self._params = params
        self._draw_tokens = draw
        self._config = model.config.get_text_config()
        self._over_slots = model.config._attn_implementation == ATTENTION
        self._device = model.device
        columns = span_of(prefill_width(longest_prompt))
        self._cache = SlotCache(num_slots, span_of(params.max_completion_tokens), num_prompts, columns)
        self._owners: list[tuple[Request, int] | None] = [None] * num_slots
        self._alive_S = np.zeros(num_slots, dtype=bool)
        self._prompt_S = np.zeros(num_slots, dtype=np.int64)
        self._seeds_S = np.zeros(num_slots, dtype=np.uint64)
        self._drawn_S = np.zeros(num_slots, dtype=np.int64)
        self._tokens_SG = np.zeros((num_slots, params.max_completion_tokens), dtype=np.int64)
        self._steps = 0
        self._lengths_P = np.zeros(num_prompts, dtype=np.int64)
        self._stop_ids = np.array(params.stop_ids, dtype=np.int64)
        self._prompt_plan: tuple[list[PromptRun], Tensor] | None = None

    @property
    def num_active(self) -> int:
        """Count the rows that are not finished."""
        return int(self._alive_S.sum())

    @property
    def num_free(self) -> int:
        """Count the slots that a new row could take."""
        return len(self._owners) - self.num_active

    @property
    def num_free_prompts(self) -> int:
        """Count the prompts that could come in."""
        return len(self._free_places())

    def admit(self, requests: Sequence[Request]) -> list[FinishedRow]:
        """Prefill each prompt once, give each of its samples a slot, and draw their first tokens.

        The prompts are to have one `prefill_width`; they and their samples are to fit into what is free.
        """
        rows = [(p, place) for p, request in enumerate(requests) for place in range(len(request.seeds))]
        slots = np.flatnonzero(~self._alive_S)[: len(rows)]
        places = self._free_places()[: len(requests)]
        lengths = [len(request.prompt_ids) for request in requests]
        prefilled, logits_PV = self._prefill(requests, lengths)
        self._cache.fill_prompts(torch.from_numpy(places).to(self._device), prefilled)
        self._lengths_P[places] = lengths
        for slot, (p, place) in zip(slots, rows, strict=True):
            self._owners[slot] = (requests[p], place)
            self._seeds_S[slot] = requests[p].seeds[place]
            self._prompt_S[slot] = places[p]
        self._alive_S[slots] = True
        self._drawn_S[slots] = 0
        self._prompt_plan = None
        return self._draw(slots, logits_PV[torch.tensor([p for p, _ in rows], device=self._device)])

    def step(self) -> list[FinishedRow]:
        """Feed every row its last token and draw its next one."""
        if self._over_slots and self._steps % ARRANGE_EVERY == 0:
            self._arrange()
        self._steps += 1
        live = np.flatnonzero(self._alive_S)
        # Filled up with the first row, which is then computed more than once.
        rows = np.concatenate([live, np.full(-len(live) % ROW_MULTIPLE, live[0])])
        tokens_N = torch.from_numpy(self._tokens_SG[rows, self._drawn_S[rows] - 1]).to(self._device)
        positions = self._lengths_P[self._prompt_S[rows]] + self._drawn_S[rows] - 1
        logits_NV = self._model(
            input_ids=tokens_N[:, None],
            position_ids=torch.from_numpy(positions).to(self._device)[:, None],
            logits_to_keep=1,
            **(self._slot_step(live, rows) if self._over_slots else self._assembled_step(rows)),
        ).logits[: len(live), 0]
        return self._draw(live, logits_NV)

    def _slot_step(self, live: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
        dtype, device = self._model.dtype, self._device
        if self._prompt_plan is None:
            heads = self._config.num_attention_heads // self._cache.keys_SGCD[0].shape[1]
            owners = self._prompt_S[live]
            runs, back_N = prompt_runs(owners, self._lengths_P[: owners.max() + 1], heads, dtype, device)
            self._prompt_plan = (runs, torch.cat([back_N, back_N[:1].expand(len(rows) - len(live))]))
        ages_S = np.where(self._alive_S, self._drawn_S, 0)[: live[-1] + 1]
        step = Step(
            cache=self._cache,
            num_slots=len(ages_S),
            slots_N=torch.from_numpy(rows).to(device),
            columns_N=torch.from_numpy(self._drawn_S[rows] - 1).to(device),
            runs=slot_runs(run_bounds(ages_S), ages_S, dtype, device),
            prompt_runs=self._prompt_plan[0],
            back_N=self._prompt_plan[1],
        )
        return {"use_cache": False, "slots": step}

    def _assembled_step(self, rows: np.ndarray) -> dict[str, Any]:
        slots_N, columns_N, owners_N, lengths_N = (
            torch.from_numpy(array).to(self._device)
            for array in (rows, self._drawn_S[rows] - 1, self._prompt_S[rows], self._lengths_P[self._prompt_S[rows]])
        )
        prompt_span, own_span = span_of(int(lengths_N.max())), span_of(int(columns_N.max()) + 1)
        masks = step_masks(self._config, lengths_N, columns_N, prompt_span, own_span, self._model.dtype)
        cache = AssembledCache(self._cache, slots_N, columns_N, owners_N, prompt_span, own_span)
        return {"use_cache": True, "past_key_values": cache, "attention_mask": masks}

    def _prefill(self, requests: Sequence[Request], lengths: list[int]) -> tuple[DynamicCache, Tensor]:
        width = prefill_width(max(lengths))
        ids_PT, _ = pad_right([request.prompt_ids for request in requests], pad_id=0)
        ids_PT = torch.nn.functional.pad(ids_PT, (0, width - ids_PT.shape[1])).to(self._device)
        # Causal attention never looks right, so right padding needs no mask. The last layer is asked for the few
        # distinct last positions only, and for as many rows as keep its product above the matrix-vector kernels.
        kept = sorted({length - 1 for length in lengths})
        spare = -(-ROW_MULTIPLE // len(requests)) - len(kept)
        kept += [place for place in range(width) if place not in kept][: max(0, spare)]
        positions_T = torch.arange(width, device=self._device)
        context = context_of(self._config)
        if context is not None:  # the padding may reach past the positions that the model knows
            positions_T = positions_T.clamp(max=context - 1)
        prefilled = DynamicCache()
        logits_PUV = self._model(
            input_ids=ids_PT,
            position_ids=positions_T[None],
            past_key_values=prefilled,
            use_cache=True,
            logits_to_keep=torch.tensor(kept, device=self._device),
        ).logits
        column = {place: u for u, place in enumerate(kept)}
        last_P = torch.tensor([column[length - 1] for length in lengths], device=self._device)
        return prefilled, logits_PUV[torch.arange(len(requests), device=self._device), last_P]

    def _draw(self, slots: np.ndarray, logits_NV: Tensor) -> list[FinishedRow]:
        uniforms_N = row_uniforms(self._seeds_S[slots], self._drawn_S[slots].astype(np.uint64))
        tokens_N = self._draw_tokens(logits_NV, uniforms_N, self._params).cpu().numpy()
        self._tokens_SG[slots, self._drawn_S[slots]] = tokens_N
        self._drawn_S[slots] += 1
        stopped_N = np.isin(tokens_N, self._stop_ids)
        done_N = stopped_N | (self._drawn_S[slots] >= self._params.max_completion_tokens)
        finished = [self._finished(int(slots[n]), bool(stopped_N[n])) for n in np.flatnonzero(done_N)]
        if finished:
            self._alive_S[slots[done_N]] = False
            self._prompt_plan = None
        return finished

    def _finished(self, slot: int, stopped: bool) -> FinishedRow:
        owner = self._owners[slot]
        assert owner is not None
        self._owners[slot] = None
        ids = tuple(self._tokens_SG[slot, : self._drawn_S[slot]].tolist())
        return FinishedRow(*owner, ids=ids, finish_reason="stop" if stopped else "length")

    def _free_places(self) -> np.ndarray:
        """List the prompt places whose rows have all ended."""
        counts_P = np.bincount(self._prompt_S[self._alive_S], minlength=len(self._lengths_P))
        return np.flatnonzero(counts_P == 0)

    def _arrange(self) -> None:
        """Put the rows in the order of their ages, where the next steps save more columns than it moves."""
        live = np.flatnonzero(self._alive_S)
        ages_N = self._drawn_S[live]
        order = live[np.argsort(-ages_N, kind="stable")]
        now = run_bounds(np.where(self._alive_S, self._drawn_S, 0)[: live[-1] + 1])
        saved = num_columns(now) - num_columns(run_bounds(self._drawn_S[order]))
        columns = span_of(int(ages_N.max()))
        if saved * ARRANGE_EVERY <= 2 * len(order) * columns:  # a moved column is read and written
            return
        self._cache.arrange_rows(torch.from_numpy(order).to(self._device), columns)
        for array in (self._seeds_S, self._drawn_S, self._tokens_SG, self._prompt_S):
            array[: len(order)] = array[order]
        self._owners = [*(self._owners[slot] for slot in order), *[None] * (len(self._owners) - len(order))]
        self._alive_S = np.arange(len(self._alive_S)) < len(order)
        self._prompt_plan = None
