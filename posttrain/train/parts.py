"""Rows of one forward pass as tensors: in a pack, where a prompt stands once for all its answers, or padded.

Shapes: B sequences, T tokens (of the pack, or of the longest sequence).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from posttrain.core.packing import Pack
from posttrain.train.batches import Array, pad_rows

Family = tuple[Array, list[Array]]
"""A prompt's token ids, perhaps none, and those of each answer to it, at least one token each."""


def make_part(families: Sequence[Family], pad_id: int, packed: bool) -> tuple[dict[str, Any], list[Array]]:
    """Lay sequences out for one forward pass.

    Args:
        families: prompts with their answers; a sequence is a prompt and one answer.
        pad_id: fills up padded rows.
        packed: whether to make a pack.

    Returns:
        What `Forward` reads, `ids` of the shape (1, T) and `pack`, or (B, T) and `positions`, in which padding repeats
        the place of a row's last token; and for each sequence, family by family, the flat place of each of its tokens.
        Sequences in a pack share the places of their prompt.
    """
    if packed:
        return _pack(families)
    sequences = [np.concatenate([prompt, answer]) for prompt, answers in families for answer in answers]
    ids_BT = pad_rows(sequences, pad_id)
    places = [row * ids_BT.shape[1] + np.arange(len(ids)) for row, ids in enumerate(sequences)]
    positions_BT = np.minimum(np.arange(ids_BT.shape[1]), np.array([[len(ids) - 1] for ids in sequences]))
    return {"ids": torch.from_numpy(ids_BT), "positions": torch.from_numpy(positions_BT)}, places


def _pack(families: Sequence[Family]) -> tuple[dict[str, Any], list[Array]]:
    pack = Pack()
    places: list[Array] = []
    for prompt, answers in families:
        shared = prompt if len(answers) > 1 else prompt[:0]  # one sequence is one segment
        start = len(pack.ids)
        sequences = [np.concatenate([prompt, answer]).tolist() for answer in answers]
        rows = list(enumerate(sequences, start=len(places)))
        pack.add(shared.tolist(), rows)
        of_prompt = start + np.arange(len(shared))
        own = start + len(shared)
        for _, ids in rows:
            length = len(ids) - len(shared)
            places.append(np.concatenate([of_prompt, own + np.arange(length)]))
            own += length
    return {"ids": torch.tensor([pack.ids]), "pack": pack}, places
