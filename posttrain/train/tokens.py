"""Rows as a trainer sees them: tokens, ids, what is learned, and what each token is there for."""

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
        For each example `row` (from 0), `side` for preference pairs (`chosen` before `rejected`) and for rankings
        (`rank 1`, …), and lists with an entry per token: `tokens` and `ids`; `mask`, 1 where the loss, or for DPO the
        comparison, reads a token; `kinds`, why: `learned` (mask 1), `nll` (read by DPO's negative log-likelihood
        alone), `format` (a control token of the template, not learned) or `context`; and `text`, what a token adds to
        the text, empty where a character is not whole yet. `num_cut` is there where tokens were cut off. An example
        of which max_tokens leaves nothing has empty lists and `drop_reason`.

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
            yield {"row": number, **_shown(example, "", tokenizer, config)}
        return
    prompt = normalize_prompt(row["prompt"])
    answers = (
        {f"rank {place}": answer for place, answer in enumerate(row["completions"], start=1)}
        if row.get("completions") is not None
        else {side: row[side] for side in ("chosen", "rejected")}
    )
    for side, answer in answers.items():
        example = encode_example(tokenizer, prompt, answer, config.template_date, tools=row.get("tools"))
        yield {"row": number, "side": side, **_shown(example, side, tokenizer, config)}


def _shown(example: Encoded, side: str, tokenizer: PreTrainedTokenizerBase, config: TrainConfig) -> Line:
    cut = truncate(tokenizer, example, config.max_tokens)
    if cut is None:
        empty: Line = {name: [] for name in ("tokens", "ids", "mask", "kinds", "text")}
        return empty | {"drop_reason": "longer than max_tokens"}
    hides_format = isinstance(config, DPOConfig) and config.mask_format_tokens
    mask = [int(m and not (hides_format and f)) for m, f in zip(cut.mask, cut.format_mask, strict=True)]
    has_nll = isinstance(config, DPOConfig) and config.nll_weight > 0 and side == "chosen"
    kinds = [
        "learned" if read else "nll" if answer and has_nll else "format" if control else "context"
        for read, answer, control in zip(mask, cut.mask, cut.format_mask, strict=True)
    ]
    line: Line = {
        "tokens": [tokenizer.decode([token]) for token in cut.ids],
        "ids": cut.ids,
        "mask": mask,
        "kinds": kinds,
        "text": _text_of_tokens(cut.ids, tokenizer),
    }
    num_cut = len(example.ids) - len(cut.ids)
    return {**line, "num_cut": num_cut} if num_cut else line


def _text_of_tokens(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return what each token adds to the text: with the space before it, a character with its last token."""
    texts: list[str] = []
    begin = done = 0  # tokens from `begin` give the context, those before `done` have been told
    for end in range(1, len(ids) + 1):
        before, after = (_decode(tokenizer, ids[begin:stop]) for stop in (done, end))
        is_whole = not after.endswith("\ufffd") or end == len(ids)
        texts.append(after[len(before) :] if is_whole else "")
        if is_whole:
            begin, done = done, end
    return texts


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)  # one sequence in, one text out
    return text
