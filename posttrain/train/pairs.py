"""Preference pairs as token ids, cut and checked, and laid out for forward passes.

Shapes: B pairs, N learned positions of both sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from posttrain.config import TrainConfig
from posttrain.core.chat import Encoded, encode_example, encode_prompt, truncate
from posttrain.core.errors import DataError, Faults
from posttrain.core.formats import normalize_prompt
from posttrain.train.batches import Array, Ragged, Step, split_fillers
from posttrain.train.intake import Intake
from posttrain.train.loop import Batch, collect
from posttrain.train.parts import make_part

SIDES = ("chosen", "rejected")


def tokenize_pairs(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    config: TrainConfig,
    mask_format_tokens: bool,
) -> tuple[Dataset, Intake]:
    """Turn pairs into ids and masks.

    Returns:
        A dataset with `prompt_ids` and, for each side, `…_ids` (the answer), `…_mask` (1 = learned, the end of turn
        among them) and `…_scored` (1 = its log-prob is compared: as the mask, but without format tokens where
        `mask_format_tokens` says so); `row` is the pair's number among `rows`, from 0. And the counts.

    Raises:
        DataError: rows that the template refuses; too many cut or dropped.
    """
    rows = list(rows)
    intake, faults = Intake(len(rows)), Faults("training rows")
    kept: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        try:
            prompt, tools = normalize_prompt(row["prompt"]), row.get("tools")
            prompt_ids = encode_prompt(tokenizer, prompt, config.template_date, tools)
            sides = [encode_example(tokenizer, prompt, row[side], config.template_date, tools=tools) for side in SIDES]
            cut = [truncate(tokenizer, side, config.max_tokens) for side in sides]
        except DataError as error:
            faults.add(f"row {number + 1}: {error}")
            continue
        was_cut = any(len(side.ids) > config.max_tokens for side in sides)
        pair = _fit(prompt_ids, cut, was_cut, mask_format_tokens, intake)
        if pair is not None:
            kept.append({"row": number, "prompt_ids": prompt_ids, **pair})
    faults.raise_if_any(DataError)
    intake.check(config)
    return Dataset.from_dict({name: [pair[name] for pair in kept] for name in kept[0]}), intake


def _fit(
    prompt_ids: list[int], cut: list[Encoded | None], was_cut: bool, mask_format_tokens: bool, intake: Intake
) -> dict[str, list[int]] | None:
    """Split both sides, cut to max_tokens; None, and a count, where nothing is left to compare."""
    if any(side is None for side in cut):
        intake.drop_too_long()
        return None
    pair: dict[str, list[int]] = {}
    start = len(prompt_ids)
    for name, side in zip(SIDES, cut, strict=True):
        assert side is not None
        shown = side.format_mask if mask_format_tokens else [0] * len(side.ids)
        pair[f"{name}_ids"] = side.ids[start:]
        pair[f"{name}_mask"] = side.mask[start:]
        pair[f"{name}_scored"] = [int(m and not f) for m, f in zip(side.mask, shown, strict=True)][start:]
    has_words = any(pair["chosen_scored"]) and any(pair["rejected_scored"])
    if not has_words or pair["chosen_ids"] == pair["rejected_ids"]:
        if was_cut:  # what tells the two apart lies beyond
            intake.drop_too_long()
        else:
            intake.drop("chosen equals rejected" if has_words else "an answer without words")
        return None
    intake.num_truncated += was_cut
    return pair


class PairCollator:
    """Lay the pairs of a step out, and find where they predict what.

    Args:
        dataset: from `tokenize_pairs`.
        pad_id: fills up padded rows.
        packed: whether forward passes hold packs.
        reference: log-probs of the reference for each learned token of the dataset, float32 in nats: pair by pair, the
            chosen answer's before the rejected one's.
    """

    def __init__(self, dataset: Dataset, pad_id: int, packed: bool, reference: Array | None = None) -> None:
        self._pad_id = pad_id
        self._packed = packed
        self._prompts = Ragged(dataset, "prompt_ids")
        names = [f"{side}_{kind}" for side in SIDES for kind in ("ids", "mask", "scored")]
        self._columns = {name: Ragged(dataset, name) for name in names}
        self.numbers = dataset["row"][:]
        lengths = [self._columns[f"{side}_ids"].lengths() for side in SIDES]
        self.longest: Array = self._prompts.lengths() + np.maximum(*lengths)
        self.num_tokens: Array = 2 * self._prompts.lengths() + lengths[0] + lengths[1]
        self.sizes: Array = self.num_tokens - self._prompts.lengths() if packed else 2 * self.longest
        self.num_learned: Array = np.stack([self._columns[f"{side}_mask"].sums() for side in SIDES], axis=1)
        self._starts = np.concatenate([[0], np.cumsum(self.num_learned.sum(axis=1))])
        self._reference = reference

    def probe(self) -> list[int]:
        """Return the tokens of the longest pair's chosen side, up to 256 of them."""
        row = int(self.longest.argmax())
        return [int(token) for token in [*self._prompts[row], *self._columns["chosen_ids"][row]][:256]]

    def __call__(self, step: Step) -> Batch:
        parts = [self.part(numbers) for numbers in step]
        return collect(parts)

    def part(self, numbers: list[int]) -> Batch:
        """Lay some pairs out for one forward pass; the owner of a token is 2b for pair b's chosen side, else 2b + 1."""
        rows, weights_B = split_fillers(numbers)
        families = [(self._prompts[row], [self._columns[f"{side}_ids"][row] for side in SIDES]) for row in rows]
        tensors, places = make_part(families, self._pad_id, self._packed)
        sequences = [(row, side) for row in rows for side in SIDES]
        learned = [np.flatnonzero(self._columns[f"{side}_mask"][row]) for row, side in sequences]
        starts = [len(self._prompts[row]) for row, _ in sequences]
        owner_N = np.repeat(np.arange(len(sequences)), [len(found) for found in learned])
        columns = list(zip(sequences, learned, starts, places, strict=True))
        targets = [self._columns[f"{side}_ids"][row][found] for (row, side), found, _, _ in columns]
        scored = [self._columns[f"{side}_scored"][row][found] for (row, side), found, _, _ in columns]
        num_chosen = (self.num_learned[rows, 0] * weights_B).sum()
        batch: Batch = {
            **tensors,
            "places": torch.from_numpy(np.concatenate([at[found + start - 1] for _, found, start, at in columns])),
            "targets": torch.from_numpy(np.concatenate(targets).astype(np.int64)),
            "owner": torch.from_numpy(owner_N),
            "scored": torch.from_numpy(np.concatenate(scored).astype(np.float32)),
            "weights": torch.from_numpy(weights_B),
            "counts": torch.tensor([weights_B.sum(), num_chosen]),
            "rows": [self.numbers[row] for row in rows],
            "num_tokens": int((self.num_tokens[rows] * weights_B).sum()),
        }
        if self._reference is not None:
            values = [self._reference[self._starts[row] : self._starts[row + 1]] for row in rows]
            batch["reference"] = torch.from_numpy(np.concatenate(values))
        return batch
