"""Which rows make an optimizer step, and how ragged rows become padded arrays.

A step's rows depend on the seed and the epoch alone: not on how many rows fit on a device, on how many processes
share the work, or on what else has drawn random numbers. So the same recipe gives the same steps everywhere.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from torch.utils.data import DataLoader, Sampler

Array = np.ndarray


class Ragged:
    """A column of rows of different lengths, read from the Arrow memory of a dataset without copies."""

    def __init__(self, dataset: Dataset, column: str) -> None:
        chunks = dataset.with_format("arrow")[:].column(column).combine_chunks()
        self._values = chunks.flatten().to_numpy(zero_copy_only=False)
        self._bounds = np.concatenate([[0], np.cumsum(chunks.value_lengths().to_numpy(zero_copy_only=False))])

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, row: int) -> Array:
        return self._values[self._bounds[row] : self._bounds[row + 1]]

    def lengths(self) -> Array:
        """Return the length of each row."""
        return np.diff(self._bounds)

    def sums(self) -> Array:
        """Return the sum of each row, int64."""
        return np.diff(np.concatenate([[0], np.cumsum(self._values, dtype=np.int64)])[self._bounds])


def pad_rows(rows: Sequence[Array], fill: float, dtype: Any = np.int64) -> Array:
    """Write rows into one array, padded on the right with `fill`."""
    padded = np.full((len(rows), max((len(row) for row in rows), default=0)), fill, dtype=dtype)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded


Step = list[list[int]]
"""The rows of one process in one optimizer step, forward pass by forward pass; a filler is -1 - row."""


class GlobalBatches(Sampler[Step]):
    """Yield the row numbers of each optimizer step of this process, divided into forward passes.

    An epoch is a permutation of the rows by (seed, epoch), cut into global batches. A global batch is divided into as
    few forward passes as `device_batch_size` and `max_tokens` allow, as many for each process, of about as many tokens
    each; this changes no sum. Where there are fewer rows than passes, some get a filler, -1 - row: a row that is
    computed and weighs nothing, so that no process waits for another.

    Args:
        sizes: tokens of each row.
        global_batch_size: rows per optimizer step over all processes.
        device_batch_size: most rows per forward pass, None for no limit.
        max_tokens: most tokens per forward pass; a larger row stands alone.
        seed: seed of the order.
        rank: number of this process.
        world_size: processes.
        padded: whether each row of a pass takes the room of its largest.
    """

    def __init__(
        self,
        sizes: Array,
        global_batch_size: int,
        device_batch_size: int | None,
        max_tokens: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        padded: bool = False,
    ) -> None:
        self._sizes = np.asarray(sizes)
        self._global = global_batch_size
        self._most_rows = device_batch_size or global_batch_size
        self._max_tokens = max_tokens
        self._seed = seed
        self._rank = rank
        self._world = world_size
        self._padded = padded
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self._epoch = epoch

    def __len__(self) -> int:
        return math.ceil(len(self._sizes) / self._global)

    def __iter__(self) -> Iterator[Step]:
        order = np.random.default_rng([self._seed, self._epoch]).permutation(len(self._sizes))
        for start in range(0, len(order), self._global):
            yield self._divide(order[start : start + self._global])

    def _divide(self, rows: Array) -> Step:
        """Divide a global batch and take this process's passes, the largest first."""
        rows = rows[np.argsort(-self._sizes[rows], kind="stable")]
        passes = math.ceil(len(rows) / (self._most_rows * self._world))
        while True:
            pieces = self._deal(rows, passes * self._world)
            if all(self._fits(piece) for piece in pieces) or passes * self._world >= len(rows):
                break
            passes += 1
        mine = pieces[self._rank :: self._world]
        return [piece or [-1 - int(rows[-1])] for piece in mine]

    def _deal(self, rows: Array, num_pieces: int) -> list[list[int]]:
        """Deal rows, the largest first: padded side by side, else each to the piece with the fewest tokens so far."""
        if self._padded:
            return [piece.tolist() for piece in np.array_split(rows, num_pieces)]
        pieces: list[list[int]] = [[] for _ in range(num_pieces)]
        open_pieces = [(0, number) for number in range(num_pieces)]
        for row in rows.tolist():
            tokens, number = heapq.heappop(open_pieces)
            pieces[number].append(row)
            if len(pieces[number]) < self._most_rows:
                heapq.heappush(open_pieces, (tokens + int(self._sizes[row]), number))
        return pieces

    def _fits(self, piece: list[int]) -> bool:
        sizes = self._sizes[piece]
        tokens = sizes.max(initial=0) * len(piece) if self._padded else sizes.sum()
        return len(piece) <= 1 or tokens <= self._max_tokens


def whole_pass(sizes: Array, max_tokens: int, padded: bool) -> list[list[int]]:
    """Divide all rows into forward passes of about `max_tokens`, rows of like size together.

    Args:
        sizes: tokens of each row.
        padded: whether each row takes the room of the largest of its pass.
    """
    passes: list[list[int]] = []
    room, largest = 0, 0
    for row in np.argsort(-np.asarray(sizes), kind="stable").tolist():
        if not passes or room < (largest if padded else sizes[row]):
            passes.append([])
            room, largest = max_tokens, int(sizes[row])
        passes[-1].append(row)
        room -= largest if padded else int(sizes[row])
    return passes


class _Numbers:
    """A dataset whose rows are what the sampler asks for; the collator knows where the tokens are."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitems__(self, step: Step) -> Step:
        return step

    def __getitem__(self, number: int) -> int:
        return number


class EpochLoader(DataLoader):
    """A loader in this process whose order follows the epoch that the trainer sets."""

    def __init__(self, batches: GlobalBatches, num_rows: int, collate: Callable[[Step], dict[str, Any]]) -> None:
        super().__init__(_Numbers(num_rows), batch_sampler=batches, collate_fn=collate, num_workers=0)  # type: ignore[arg-type]

    @property
    def lengths(self) -> Array:
        """Return the tokens of each row."""
        return self.batch_sampler._sizes  # type: ignore[union-attr]

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch on to the sampler."""
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


def split_fillers(numbers: Sequence[int]) -> tuple[list[int], Array]:
    """Return row numbers and their weights: 1, or 0 for a filler."""
    rows = [number if number >= 0 else -1 - number for number in numbers]
    return rows, np.array([1.0 if number >= 0 else 0.0 for number in numbers], dtype=np.float32)
