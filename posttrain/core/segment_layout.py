"""Where a pack's segments lie, for attention over them: runs of queries and the keys that they see.

Runs of like size go side by side in a bucket; long ones are taken as they lie, which spares the copies.

Shapes: T tokens of a pack, S of them in buckets, N runs of a bucket, Q queries and K keys of a run (padded).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from posttrain.core.packing import Pack

# Padding costs arithmetic, a bucket of its own costs calls: so large a share of a bucket's logits may be padding, or so
# many of them whatever the share (a layer's calls take as long as about this many logits).
_MOST_PADDING = 0.3
_FREE_PADDING = 1 << 14
# Logits of a run from which a call of its own costs less than the copy that puts it beside others.
_MOST_SHARED = 1 << 12


@dataclass(frozen=True)
class Bucket:
    """Hold the places of runs of like size, side by side; N runs, Q queries and K keys in the longest.

    Attributes:
        queries_NQ: after a run's end its last query.
        keys_NK: likewise.
        mask_N11K: 0, and minus infinity at keys after a run's end; None where all have K keys.
        counts_NQ: 1, and 0 at queries after a run's end.
    """

    queries_NQ: Tensor
    keys_NK: Tensor
    mask_N11K: Tensor | None
    counts_NQ: Tensor


Run = tuple[range, range]  # the places of queries, and of the keys that they see


@dataclass(frozen=True)
class Runs:
    """Hold the places of all runs of a kind.

    Attributes:
        alone: runs that are taken as they lie, without a copy.
        buckets: the others.
        order_S: the row of the queries of `buckets`, one bucket after the other, that holds each of their S tokens.
        places_S: the places of these tokens, ascending.
    """

    alone: list[Run]
    buckets: list[Bucket]
    order_S: Tensor
    places_S: Tensor


@dataclass(frozen=True)
class Layout:
    """Hold the places of a pack's segments on the model's device.

    Attributes:
        own: segments, which see themselves causally.
        prefixes: all queries that see a prompt, and the prompts.
        learns: whether gradients are wanted, or numbers to compare with such as have them.
    """

    own: Runs
    prefixes: Runs
    learns: bool = False


def layout(pack: Pack, device: torch.device, learns: bool = False) -> Layout:
    """Lay out the segments of a pack for the attention function, once for all layers."""
    own = [range(segment.start, segment.start + segment.length) for segment in pack.segments]
    # Elsewhere a call costs more than a copy, and a score must not depend on what else is in its pack.
    most = _MOST_SHARED if learns and device.type == "cpu" else None
    return Layout(
        _laid_out([(places, places) for places in own], device, most), _laid_out(_prefixes(pack), device, most), learns
    )


def _laid_out(runs: list[Run], device: torch.device, most_shared: int | None) -> Runs:
    """Put runs of up to so many logits into buckets, all where it is None."""
    alone = [] if most_shared is None else [run for run in runs if len(run[0]) * len(run[1]) > most_shared]
    buckets, order = _buckets([run for run in runs if run not in alone], device)
    places = sorted(order)
    rows = torch.tensor([order[place] for place in places], device=device, dtype=torch.long)
    return Runs(alone, buckets, rows, torch.tensor(places, device=device, dtype=torch.long))


def _prefixes(pack: Pack) -> list[Run]:
    queries: dict[tuple[int, int], range] = {}
    for segment in pack.segments:
        if segment.prefix is not None:
            start = queries[segment.prefix].start if segment.prefix in queries else segment.start
            queries[segment.prefix] = range(start, segment.start + segment.length)
    return [(places, range(start, start + length)) for (start, length), places in queries.items()]


def _buckets(runs: list[Run], device: torch.device) -> tuple[list[Bucket], dict[int, int]]:
    """Put runs of like size together, and say in which row of all buckets' queries each query's place stands."""
    grouped: list[list[Run]] = []
    used = most_queries = most_keys = 0
    for run in sorted(runs, key=lambda run: (-len(run[1]), -len(run[0]))):
        size = len(run[0]) * len(run[1])
        count = len(grouped[-1]) + 1 if grouped else 1
        room = count * max(most_queries, len(run[0])) * max(most_keys, len(run[1]))
        padding = room - used - size
        if not grouped or padding > max(_MOST_PADDING * room, _FREE_PADDING):
            grouped.append([])
            used = most_queries = most_keys = 0
        grouped[-1].append(run)
        used += size
        most_queries, most_keys = max(most_queries, len(run[0])), max(most_keys, len(run[1]))
    order: dict[int, int] = {}
    buckets, row = [], 0
    for group in grouped:
        num_queries, num_keys = (max(len(run[side]) for run in group) for side in (0, 1))
        for queries, _ in group:
            order.update(zip(queries, range(row, row + len(queries)), strict=True))
            row += num_queries
        queries_NQ, keys_NK = (_filled([run[side] for run in group], device) for side in (0, 1))
        lengths_N = torch.tensor([len(keys) for _, keys in group], device=device)
        mask_N11K = None
        if int(lengths_N.min()) < num_keys:
            hidden_NK = torch.arange(num_keys, device=device) >= lengths_N[:, None]
            mask_N11K = torch.zeros(hidden_NK.shape, device=device).masked_fill_(hidden_NK, -math.inf)[:, None, None]
        counts = torch.tensor([len(queries) for queries, _ in group], device=device)
        counts_NQ = (torch.arange(num_queries, device=device) < counts[:, None]).float()
        buckets.append(Bucket(queries_NQ, keys_NK, mask_N11K, counts_NQ))
    return buckets, order


def _filled(runs: list[range], device: torch.device) -> Tensor:
    longest = max(map(len, runs))
    return torch.tensor([[*places, *[places[-1]] * (longest - len(places))] for places in runs], device=device)
