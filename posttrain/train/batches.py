"""Which rows make an optimizer step, and how ragged rows become padded arrays.

A step's rows depend on the seed and the epoch alone: not on how many rows fit on a device, on how many processes
share the work, or on what else has drawn random numbers. So the same recipe gives the same steps everywhere.
"""

from __future__ import annotations

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


def pad_rows(rows: Sequence[Array], fill: float, dtype: Any = np.int64) -> Array:
    """Write rows into one array, padded on the right with `fill`."""
    padded = np.full((len(rows), max((len(row) for row in rows), default=0)), fill, dtype=dtype)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded


class GlobalBatches(Sampler[list[int]]):
    """Yield the row numbers of each forward pass of this process.

    An epoch is a permutation of the rows by (seed, epoch), cut into global batches. Within one, rows are sorted by
    length before they are dealt to forward passes and processes, which saves padding and changes no sum. Where the
    last global batch of an epoch has fewer rows than there are processes, some get a filler, -1 - row: a row that is
    computed and weighs nothing, so that no process waits for another.

    Args:
        lengths: tokens of each row.
        global_batch_size: rows per optimizer step over all processes.
        device_batch_size: rows per forward pass of one process.
        seed: seed of the order.
        rank: number of this process.
        world_size: processes; world_size * device_batch_size must divide global_batch_size.
    """

    def __init__(
        self,
        lengths: Array,
        global_batch_size: int,
        device_batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._lengths = np.asarray(lengths)
        self._global = global_batch_size
        self._device = device_batch_size
        self._seed = seed
        self._rank = rank
        self._world = world_size
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self._epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(len(self._lengths), self._global)
        return whole * self._rounds(self._global) + self._rounds(rest)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self._seed, self._epoch]).permutation(len(self._lengths))
        for start in range(0, len(order), self._global):
            rows = order[start : start + self._global]
            rows = rows[np.argsort(self._lengths[rows], kind="stable")]
            pieces = np.array_split(rows, self._rounds(len(rows)) * self._world)
            for piece in pieces[self._rank :: self._world]:
                yield piece.tolist() or [-1 - int(rows[0])]

    def _rounds(self, num_rows: int) -> int:
        return math.ceil(num_rows / (self._device * self._world))


class _Numbers:
    """A dataset whose rows are their own numbers; the collator knows where the tokens are."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitems__(self, numbers: list[int]) -> list[int]:
        return numbers

    def __getitem__(self, number: int) -> int:
        return number


class EpochLoader(DataLoader):
    """A loader in this process whose order follows the epoch that the trainer sets."""

    def __init__(self, batches: GlobalBatches, num_rows: int, collate: Callable[[list[int]], dict[str, Any]]) -> None:
        super().__init__(_Numbers(num_rows), batch_sampler=batches, collate_fn=collate, num_workers=0)  # type: ignore[arg-type]

    @property
    def lengths(self) -> Array:
        """Return the tokens of each row."""
        return self.batch_sampler._lengths  # type: ignore[union-attr]

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch on to the sampler."""
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


def split_fillers(numbers: Sequence[int]) -> tuple[list[int], Array]:
    """Return row numbers and their weights: 1, or 0 for a filler."""
    rows = [number if number >= 0 else -1 - number for number in numbers]
    return rows, np.array([1.0 if number >= 0 else 0.0 for number in numbers], dtype=np.float32)
