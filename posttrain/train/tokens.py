"""Rows as a trainer sees them: tokens, ids and what is learned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from posttrain.config import DPOConfig, TrainConfig
from posttrain.core.chat import Encoded, encode_example, load_tokenizer, truncate
from posttrain.core.formats import normalize_prompt
from posttrain.train.kinds import Kind, check_training_rows
from posttrain.train.sft import encode_row

Line = dict[str, Any]


def show_tokens(
    kind: Kind, model_dir: str | Path, rows: Iterable[Mapping[str, Any]], config: TrainConfig, num_rows: int = 5
) -> list[Line]:
    """Return the first rows as tokens with their mask, cut as training cuts them.

    Returns:
        `{"row", "tokens", "ids", "mask"}` for each example, with `side` for preference pairs (`chosen` before
        `rejected`) and for rankings (`rank 1`, …). mask is 1 where the loss, or for DPO the comparison, reads a token;
        a row of which max_tokens leaves nothing has empty lists and `drop_reason`.

    Raises:
        DataError: rows of the wrong form.
    """
    shown = list(islice(rows, num_rows))
    check_training_rows(kind, shown)
    tokenizer = load_tokenizer(model_dir)
    return [line for number, row in enumerate(shown) for line in _lines(kind, number, row, tokenizer, config)]


def _lines(
    kind: Kind, number: int, row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, config: TrainConfig
) -> Iterator[Line]:
    if kind in ("sft", "distill"):
        for example in encode_row(row, tokenizer, config.template_date):
            yield {"row": number, **_shown(example, tokenizer, config)}
        return
    prompt = normalize_prompt(row["prompt"])
    answers = (
        {f"rank {place}": answer for place, answer in enumerate(row["completions"], start=1)}
        if "completions" in row
        else {side: row[side] for side in ("chosen", "rejected")}
    )
    for side, answer in answers.items():
        example = encode_example(tokenizer, prompt, answer, config.template_date)
        yield {"row": number, "side": side, **_shown(example, tokenizer, config)}


def _shown(example: Encoded, tokenizer: PreTrainedTokenizerBase, config: TrainConfig) -> Line:
    cut = truncate(example, config.max_tokens)
    if cut is None:
        return {"tokens": [], "ids": [], "mask": [], "drop_reason": "longer than max_tokens"}
    hides_format = isinstance(config, DPOConfig) and config.mask_format_tokens
    mask = [int(m and not (hides_format and f)) for m, f in zip(cut.mask, cut.format_mask, strict=True)]
    return {"tokens": [tokenizer.decode([token]) for token in cut.ids], "ids": cut.ids, "mask": mask}
