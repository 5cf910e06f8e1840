"""The reference of DPO: log-probs of its learned tokens, computed once before training and kept on disk.

They are found again under a name made of all that they depend on: the weights, the tokens, the masks (and so the
template and the truncation), and the compute type. Neither the reference model nor its log-probs stand in memory while
the policy trains; the file is memory-mapped.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from posttrain.core.files import content_hash
from posttrain.train.batches import Array
from posttrain.train.forward import Forward, to_device
from posttrain.train.pairs import PairCollator


def reference_key(model: str, rows: Any, dtype: str) -> str:
    """Name what the log-probs depend on.

    Args:
        model: hash of the reference's weights.
        rows: fingerprint of the tokens and masks.
        dtype: compute type, or that of weights of fewer bits.
    """
    return content_hash({"model": model, "rows": rows, "dtype": dtype, "version": 1})


def find_reference(folder: Path, key: str, num_tokens: int) -> Array | None:
    """Return the log-probs of a key, memory-mapped, where they are whole; float32, nats."""
    try:
        found = np.load(folder / f"reference-{key}.npy", mmap_mode="r")
    except (OSError, ValueError):
        return None
    return found if found.shape == (num_tokens,) else None


def write_reference(folder: Path, key: str, logprobs_N: Array) -> None:
    """Write log-probs under a key; a file of that name is whole or is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / f".reference-{key}.{os.getpid()}.npy"
    try:
        np.save(work, logprobs_N)
        os.replace(work, folder / f"reference-{key}.npy")
    finally:
        work.unlink(missing_ok=True)


@torch.no_grad()
def compute_reference(
    model: Any, forward: Forward, collate: PairCollator, parts: list[list[int]], device: str
) -> Array:
    """Compute the log-prob of each learned token of a stretch of pairs, in the order that `PairCollator` reads them.

    Args:
        model: the reference, in evaluation mode.
        parts: the pairs of each forward pass; together a stretch of the dataset, each pair once.
    """
    rows_of_all = [row for part in parts for row in part]
    first, num_learned = min(rows_of_all), collate.num_learned.sum(axis=1)
    starts = np.cumsum(np.concatenate([np.zeros(first + 1, dtype=np.int64), num_learned[first:]]))
    values = np.empty(int(num_learned[rows_of_all].sum()), dtype=np.float32)
    with forward.attention():
        for rows in parts:
            part = to_device(collate.part(rows), device)
            logprobs_N, _, _ = forward.logprobs_at(model, part, part["places"], part["targets"])
            pieces = np.split(logprobs_N.float().cpu().numpy(), np.cumsum(num_learned[rows])[:-1])
            for row, piece in zip(rows, pieces, strict=True):
                values[starts[row] : starts[row + 1]] = piece
    return values
