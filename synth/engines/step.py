"""One decoding step's attention: each row to its prompt, which its siblings share, and to its own tokens.

Rows are attended in runs of neighbouring slots, each run as wide as its oldest row; it pays to have rows of like age
side by side.

Shapes: N rows of a pass, S slots in use, P prompts in use, R most rows of a prompt, H heads, G key-value heads,
Q heads per key-value head, D head size, W columns of a prompt, C columns of a slot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from posttrain.core.attention import attend, join, unsupported
from posttrain.core.errors import ModelError
from synth.engines.slots import SlotCache

ATTENTION = "posttrain_slots"
SPAN_MULTIPLE = 32
"""Columns are rounded up to this: the fused function sums in the same order for all such spans."""
# The products of the fused function have the same bits for any number of query rows, except for 1 to 3.
_ROW_MULTIPLE = 4
# A run of so many slots ends where a row has at most this share of the columns of the run's oldest.
_SLOTS_PER_RUN = 4
_YOUNG = 0.5
# Prompts are attended in up to this many runs of at least so many, each as wide as its prompt with the most rows.
_PROMPT_RUNS = 4
_PROMPTS_PER_RUN = 16


@dataclass(frozen=True)
class Run:
    """Hold a run of slots or of prompts: from `start` to `stop`, `span` columns wide, some of them masked."""

    start: int
    stop: int
    span: int
    mask: Tensor | None


@dataclass(frozen=True)
class PromptRun(Run):
    """Hold a run of prompts; `rows_PR` are their rows among those of the pass, filled up with row 0."""

    rows_PR: Tensor


@dataclass(frozen=True)
class Step:
    """Hold what the attention of every layer needs in one pass.

    Attributes:
        slots_N: the slot of each row.
        columns_N: the column of its slot that the row writes now.
        runs: of slots, all slots in use.
        prompt_runs: of prompts, all prompts in use.
        back_N: where each row stands among the rows of the prompt runs, one run after the other.
    """

    cache: SlotCache
    num_slots: int
    slots_N: Tensor
    columns_N: Tensor
    runs: list[Run]
    prompt_runs: list[PromptRun]
    back_N: Tensor

    def attend(self, layer: int, query_NHD: Tensor, scale: float) -> Tensor:
        """Give the attention outputs of a layer whose keys and values are written already, out_NHD."""
        num_groups = self.cache.keys_SGCD[layer].shape[1]
        query_NGQD = query_NHD.unflatten(1, (num_groups, -1))
        own, own_weight = self._own(layer, query_NGQD, scale)
        prompt, prompt_weight = self._prompts(layer, query_NGQD, scale)
        return join(own, own_weight, prompt, prompt_weight).flatten(1, 2)

    def _own(self, layer: int, query_NGQD: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        query_SGQD = query_NGQD.new_zeros(self.num_slots, *query_NGQD.shape[1:])
        query_SGQD[self.slots_N] = query_NGQD
        outs, weights = [], []
        for run in self.runs:
            keys, values = (
                store[run.start : run.stop, :, : run.span]
                for store in (self.cache.keys_SGCD[layer], self.cache.values_SGCD[layer])
            )
            out, weight = attend(query_SGQD[run.start : run.stop], keys, values, scale, mask=run.mask)
            outs.append(out)
            weights.append(weight)
        return torch.cat(outs)[self.slots_N], torch.cat(weights)[self.slots_N]

    def _prompts(self, layer: int, query_NGQD: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        outs, weights = [], []
        for run in self.prompt_runs:
            num_prompts, num_rows = run.rows_PR.shape
            keys, values = (
                store[run.start : run.stop, :, : run.span]
                for store in (self.cache.prompt_keys_PGWD[layer], self.cache.prompt_values_PGWD[layer])
            )
            query_PGXD = query_NGQD[run.rows_PR].transpose(1, 2).flatten(2, 3)
            out_PGXD, weight_PGX = attend(query_PGXD, keys, values, scale, mask=run.mask)
            outs.append(out_PGXD.unflatten(2, (num_rows, -1)).transpose(1, 2).flatten(0, 1))
            weights.append(weight_PGX.unflatten(2, (num_rows, -1)).transpose(1, 2).flatten(0, 1))
        return torch.cat(outs)[self.back_N], torch.cat(weights)[self.back_N]


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    slots: Step | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend as a model's layers ask it to: in a decoding step over slots, else as transformers does.

    Raises:
        ModelError: a layer asks for what slots do not have; the engine then takes another way.
    """
    if slots is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    asked = unsupported(others)
    if asked or value.shape[-1] != query.shape[-1]:
        raise ModelError(f"{type(module).__name__} asks for {', '.join(asked) or 'values of another width than keys'}")
    layer: Any = module.layer_idx
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    slots.cache.write(layer, slots.slots_N, slots.columns_N, key[:, :, 0], value[:, :, 0])
    return slots.attend(layer, query[:, :, 0], scale)[:, None], None


AttentionInterface.register(ATTENTION, attention)


def run_bounds(ages_S: np.ndarray) -> list[tuple[int, int, int]]:
    """Cut the slots into runs whose rows have drawn about as many tokens.

    Args:
        ages_S: tokens of each slot's row, the one being drawn from included; 0 where a slot is free.

    Returns:
        (start, stop, span) of each run.
    """
    starts, oldest = [0], 0
    for slot, age in enumerate(ages_S.tolist()):
        if slot - starts[-1] >= _SLOTS_PER_RUN and oldest > 2 * SPAN_MULTIPLE and 0 < age <= oldest * _YOUNG:
            starts.append(slot)
            oldest = age
        oldest = max(oldest, age)
    stops = [*starts[1:], len(ages_S)]
    return [
        (start, stop, span_of(int(ages_S[start:stop].max()))) for start, stop in zip(starts, stops, strict=True)
    ]


def num_columns(bounds: list[tuple[int, int, int]]) -> int:
    """Count the columns that runs attend to."""
    return sum((stop - start) * span for start, stop, span in bounds)


def slot_runs(
    bounds: list[tuple[int, int, int]], ages_S: np.ndarray, dtype: torch.dtype, device: torch.device
) -> list[Run]:
    """Give the runs their masks."""
    return [Run(*bound, _mask(ages_S[bound[0] : bound[1]], bound[2], dtype, device)) for bound in bounds]


def prompt_runs(
    owners_N: np.ndarray, lengths_P: np.ndarray, num_heads: int, dtype: torch.dtype, device: torch.device
) -> tuple[list[PromptRun], Tensor]:
    """Cut the prompts into runs and say where each row of the pass stands in them.

    Args:
        owners_N: the prompt of each row.
        lengths_P: tokens of each prompt, any number where a place is free.
        num_heads: query heads per key-value head.
    """
    num_prompts = len(lengths_P)
    counts_P = np.bincount(owners_N, minlength=num_prompts)
    rows_N = np.argsort(owners_N, kind="stable")
    first_P = np.cumsum(counts_P) - counts_P
    step = _ROW_MULTIPLE // int(np.gcd(num_heads, _ROW_MULTIPLE))
    runs, back_N, offset = [], np.zeros(len(owners_N), dtype=np.int64), 0
    for part in np.array_split(np.arange(num_prompts), min(_PROMPT_RUNS, -(-num_prompts // _PROMPTS_PER_RUN))):
        width = -(-max(1, int(counts_P[part].max())) // step) * step
        places_PR = np.arange(width) < counts_P[part, None]
        rows_PR = np.zeros(places_PR.shape, dtype=np.int64)
        rows_PR[places_PR] = rows_N[first_P[part[0]] : first_P[part[-1]] + counts_P[part[-1]]]
        back_N[rows_PR[places_PR]] = offset + np.flatnonzero(places_PR)
        offset += rows_PR.size
        lengths = lengths_P[part]
        span = span_of(int(lengths.max()))
        mask = _mask(lengths, span, dtype, device)
        runs.append(PromptRun(int(part[0]), int(part[-1]) + 1, span, mask, torch.from_numpy(rows_PR).to(device)))
    return runs, torch.from_numpy(back_N).to(device)


def span_of(num_tokens: int) -> int:
    """Round a number of columns up to a span of the attention."""
    return -(-max(num_tokens, 1) // SPAN_MULTIPLE) * SPAN_MULTIPLE


def _mask(lengths_N: np.ndarray, span: int, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """Hide the columns from each row's length on; None where nothing is to hide."""
    lengths_N = np.maximum(lengths_N, 1)  # a row that sees nothing would have no softmax
    if bool((lengths_N == span).all()):
        return None
    hidden_NC = torch.arange(span) >= torch.from_numpy(lengths_N)[:, None]
    mask_NC = torch.zeros(hidden_NC.shape, dtype=dtype).masked_fill_(hidden_NC, torch.finfo(dtype).min)
    return mask_NC[:, None, None, :].to(device)
