"""Preference pairs as token ids, cut and checked, and as padded batches.

Shapes: B pairs (2B rows: the chosen ones, then the rejected ones), T positions, N learned positions of both sides.
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
from posttrain.train.batches import Array, Ragged, pad_rows, split_fillers
from posttrain.train.intake import Intake
from posttrain.train.loop import Batch

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
            prompt = normalize_prompt(row["prompt"])
            prompt_ids = encode_prompt(tokenizer, prompt, config.template_date)
            sides = [encode_example(tokenizer, prompt, row[side], config.template_date) for side in SIDES]
        except DataError as error:
            faults.add(f"row {number + 1}: {error}")
            continue
        pair = _fit(prompt_ids, sides, config.max_tokens, mask_format_tokens, intake)
        if pair is not None:
            kept.append({"row": number, "prompt_ids": prompt_ids, **pair})
    faults.raise_if_any(DataError)
    intake.check(config)
    return Dataset.from_dict({name: [pair[name] for pair in kept] for name in kept[0]}), intake


def _fit(
    prompt_ids: list[int], sides: list[Encoded], max_tokens: int, mask_format_tokens: bool, intake: Intake
) -> dict[str, list[int]] | None:
    """Cut both sides to max_tokens; None, and a count, where nothing is left to compare."""
    cut = [truncate(side, max_tokens) for side in sides]
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
    was_cut = any(len(side.ids) > max_tokens for side in sides)
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
    """Pad pairs, chosen above rejected, and find where they predict what.

    Args:
        dataset: from `tokenize_pairs`; columns `ref_chosen_logps` and `ref_rejected_logps` (a number per learned
            token, nats), where present, give the reference.
        pad_id: fills up rows.
    """

    def __init__(self, dataset: Dataset, pad_id: int) -> None:
        self.pad_id = pad_id
        self._prompts = Ragged(dataset, "prompt_ids")
        names = [f"{side}_{kind}" for side in SIDES for kind in ("ids", "mask", "scored")]
        self._columns = {name: Ragged(dataset, name) for name in names}
        self.numbers = dataset["row"][:]
        has_reference = "ref_chosen_logps" in dataset.column_names
        self._reference = [Ragged(dataset, f"ref_{side}_logps") for side in SIDES] if has_reference else None
        sides = [self._columns[f"{side}_ids"].lengths() for side in SIDES]
        self.lengths: Array = self._prompts.lengths() + np.maximum(*sides)
        self.num_tokens: Array = 2 * self._prompts.lengths() + sides[0] + sides[1]

    def probe(self) -> list[int]:
        """Return the tokens of the longest pair's chosen side, up to 256 of them."""
        row = int(self.lengths.argmax())
        return [int(token) for token in [*self._prompts[row], *self._columns["chosen_ids"][row]][:256]]

    def __call__(self, numbers: list[int]) -> Batch:
        rows, weights_B = split_fillers(numbers)
        ids_BT = pad_rows(self.sequences(rows), self.pad_id)
        mask_BT = self._place("mask", rows, ids_BT.shape[1])
        scored_BT = self._place("scored", rows, ids_BT.shape[1])
        owner_N, place_N = np.nonzero(mask_BT)
        batch: Batch = {
            "input_ids": torch.from_numpy(ids_BT),
            "places": torch.from_numpy(owner_N * ids_BT.shape[1] + place_N - 1),
            "targets": torch.from_numpy(ids_BT[owner_N, place_N]),
            "owner": torch.from_numpy(owner_N),
            "scored": torch.from_numpy(scored_BT[owner_N, place_N].astype(np.float32)),
            "weights": torch.from_numpy(weights_B),
            "counts": torch.tensor([weights_B.sum(), (mask_BT[: len(rows)].sum(axis=1) * weights_B).sum()]),
            "rows": [self.numbers[row] for row in rows],
            "num_tokens": int((self.num_tokens[rows] * weights_B).sum()),
        }
        if self._reference is not None:
            values = [reference[row] for reference in self._reference for row in rows]
            batch["reference"] = torch.from_numpy(np.concatenate(values).astype(np.float32))
        return batch

    def sequences(self, rows: list[int]) -> list[Array]:
        """Return prompt and answer of each pair: the chosen ones, then the rejected ones."""
        answers = [self._columns[f"{side}_ids"] for side in SIDES]
        return [np.concatenate([self._prompts[row], answer[row]]) for answer in answers for row in rows]

    def _place(self, kind: str, rows: list[int], width: int) -> Array:
        placed = np.zeros((2 * len(rows), width), dtype=np.int8)
        for index, (side, row) in enumerate((side, row) for side in SIDES for row in rows):
            values = self._columns[f"{side}_{kind}"][row]
            start = len(self._prompts[row])
            placed[index, start : start + len(values)] = values
        return placed
