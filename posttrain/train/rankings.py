"""Rankings of answers as token ids, cut and checked, and laid out for forward passes; a pair is a ranking of two.

Shapes: B rows (a ranking), P pairs of answers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from posttrain.config import RewardModelConfig
from posttrain.core.chat import Encoded, encode_example, encode_prompt, truncate
from posttrain.core.errors import DataError, Faults
from posttrain.core.formats import normalize_prompt
from posttrain.core.pooling import pooled
from posttrain.train.batches import Array, Ragged, Step, split_fillers
from posttrain.train.intake import Intake
from posttrain.train.kinds import check_training_rows
from posttrain.train.loop import Batch, collect
from posttrain.train.losses import STRENGTH_MARGINS
from posttrain.train.parts import make_part

Row = dict[str, Any]


def as_rankings(rows: Iterable[Mapping[str, Any]], needs_strength: bool = False) -> list[Row]:
    """Check rows and give each as a ranking: a pair is one of two answers.

    Raises:
        DataError: lists rows of the wrong form, or, where margins are asked for, pairs without a known strength.
    """
    given: list[Row] = [dict(row) for row in rows]
    check_training_rows("reward_model", given)
    rankings = [row if row.get("completions") is not None else _pair_as_ranking(row) for row in given]
    if needs_strength:
        faults = Faults("training rows")
        for number, ranking in enumerate(rankings, start=1):
            for strength in ranking.get("strengths") or [None]:
                if strength not in STRENGTH_MARGINS:
                    known = ", ".join(STRENGTH_MARGINS)
                    faults.add(f"row {number}: strength is {strength!r}, expected one of {known}")
        faults.raise_if_any(DataError)
    return rankings


def _pair_as_ranking(pair: Row) -> Row:
    kept = {name: value for name, value in pair.items() if name not in ("chosen", "rejected", "strength")}
    strengths = {"strengths": [pair["strength"]]} if pair.get("strength") is not None else {}
    return {**kept, "completions": [pair["chosen"], pair["rejected"]], **strengths}


def tokenize_rankings(
    rankings: list[Row], tokenizer: PreTrainedTokenizerBase, config: RewardModelConfig, pad_id: int | None = None
) -> tuple[Dataset, Intake]:
    """Turn rankings into token ids and the pairs that they hold.

    Args:
        pad_id: what the model takes for padding; answers are cut after their last other token.

    Returns:
        A dataset with `prompt_ids`; `answer_ids`, all answers of the row one after the other, and their
        `answer_lengths`; `better` and `worse`, the answers of each pair by their number in the row, and its `margin`;
        `row` is the number among `rankings`, from 0. And the counts.

    Raises:
        DataError: rows that the template refuses; too many cut or dropped.
    """
    intake, faults = Intake(len(rankings)), Faults("training rows")
    kept: list[Row] = []
    for number, ranking in enumerate(rankings):
        try:
            prompt, tools = normalize_prompt(ranking["prompt"]), ranking.get("tools")
            prompt_ids = encode_prompt(tokenizer, prompt, config.template_date, tools)
            answers = [
                encode_example(tokenizer, prompt, answer, config.template_date, tools=tools)
                for answer in ranking["completions"]
            ]
            cut = [truncate(tokenizer, answer, config.max_tokens) for answer in answers]
        except DataError as error:
            faults.add(f"row {number + 1}: {error}")
            continue
        was_cut = any(len(answer.ids) > config.max_tokens for answer in answers)
        row = _fit(prompt_ids, cut, was_cut, ranking.get("strengths"), config, pad_id, intake)
        if row is not None:
            kept.append({"row": number, "prompt_ids": prompt_ids, **row})
    faults.raise_if_any(DataError)
    intake.check(config)
    return Dataset.from_dict({name: [row[name] for row in kept] for name in kept[0]}), intake


def _fit(
    prompt_ids: list[int],
    cut: list[Encoded | None],
    was_cut: bool,
    strengths: list[str] | None,
    config: RewardModelConfig,
    pad_id: int | None,
    intake: Intake,
) -> Row | None:
    """List the pairs of answers, cut to max_tokens; None, and a count, where nothing is left to compare."""
    ids = [pooled(answer.ids[len(prompt_ids) :], pad_id) for answer in cut if answer is not None]
    if len(ids) < len(cut):
        intake.drop_too_long()
        return None
    if not all(ids):
        intake.drop("an answer without words")
        return None
    places = list(itertools.combinations(range(len(ids)), 2))
    margins = [STRENGTH_MARGINS[name] if config.margin else 0.0 for name in strengths or [""] * len(places)]
    pairs = [(*place, margin) for place, margin in zip(places, margins, strict=True) if ids[place[0]] != ids[place[1]]]
    if not pairs:
        if was_cut:  # what tells the answers apart lies beyond
            intake.drop_too_long()
        else:
            intake.drop("chosen equals rejected" if len(ids) == 2 else "all answers are equal")
        return None
    intake.num_truncated += was_cut
    better, worse, margin = (list(column) for column in zip(*pairs, strict=True))
    return {
        "answer_ids": list(itertools.chain(*ids)),
        "answer_lengths": [len(answer) for answer in ids],
        "better": better,
        "worse": worse,
        "margin": margin,
    }


class RankingCollator:
    """Lay the rankings of a step out, and note where each answer ends.

    Args:
        dataset: from `tokenize_rankings`.
        pad_id: fills up padded rows.
        packed: whether forward passes hold packs, in which answers do not see each other.
    """

    def __init__(self, dataset: Dataset, pad_id: int, packed: bool) -> None:
        self._pad_id = pad_id
        self._packed = packed
        self._prompts = Ragged(dataset, "prompt_ids")
        names = ("answer_ids", "answer_lengths", "better", "worse", "margin")
        self._columns = {name: Ragged(dataset, name) for name in names}
        self.numbers = dataset["row"][:]
        prompts, answers = self._prompts.lengths(), self._columns["answer_ids"].lengths()
        num_answers = self._columns["answer_lengths"].lengths()
        largest = [int(self._columns["answer_lengths"][row].max()) for row in range(len(prompts))]
        self.longest: Array = prompts + np.array(largest)
        self.num_tokens: Array = num_answers * prompts + answers
        self.sizes: Array = prompts + answers if packed else num_answers * self.longest

    def probe(self) -> list[int]:
        """Return the tokens of a prompt with its first answer, up to 256 of them."""
        row = int(self.longest.argmax())
        return [int(token) for token in [*self._prompts[row], *self._answers(row)[0]][:256]]

    def _answers(self, row: int) -> list[Array]:
        lengths = self._columns["answer_lengths"][row]
        return np.split(self._columns["answer_ids"][row], np.cumsum(lengths)[:-1])

    def __call__(self, step: Step) -> Batch:
        return collect([self.part(numbers) for numbers in step])

    def part(self, numbers: list[int]) -> Batch:
        """Lay some rankings out for one forward pass."""
        rows, weights_B = split_fillers(numbers)
        tensors, places = make_part([(self._prompts[r], self._answers(r)) for r in rows], self._pad_id, self._packed)
        num_answers = [len(self._columns["answer_lengths"][row]) for row in rows]
        starts = np.cumsum([0, *num_answers[:-1]])
        better, worse = (
            np.concatenate([self._columns[name][row] + start for row, start in zip(rows, starts, strict=True)])
            for name in ("better", "worse")
        )
        weights_P = np.repeat(weights_B, [len(self._columns["better"][row]) for row in rows])
        margin_P = np.concatenate([self._columns["margin"][row] for row in rows])
        return {
            **tensors,
            "places": torch.tensor([int(at[-1]) for at in places]),
            "better": torch.from_numpy(better),
            "worse": torch.from_numpy(worse),
            "margin": torch.from_numpy(margin_P.astype(np.float32)),
            "weights": torch.from_numpy(weights_P),
            "counts": torch.tensor([weights_P.sum()]),
            "rows": [self.numbers[row] for row in rows],
            "num_tokens": int((self.num_tokens[rows] * weights_B).sum()),
        }
