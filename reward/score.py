"""A score per completion from a reward model, the same number whatever the batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from posttrain.core.files import content_hash
from posttrain.core.shared_prefix import why_not_packed
from reward.encoding import Result, RowEncoder
from reward.errors import RewardError
from reward.forward import apply_head, head_scores, last_token_scores, packed_hidden, padded_hidden
from reward.ids import Row
from reward.noise import Noise
from reward.parity import affordable, check_class, compare, probe, why_padded

__all__ = [
    "RowEncoder",
    "apply_head",
    "iter_scores",
    "last_token_scores",
    "measure_noise",
    "score_head",
    "score_pairs",
    "score_rows",
]

Progress = Callable[[int, int], None]


def score_rows(
    rows: Iterable[Mapping[str, Any]],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_batch_tokens: int = 8192,
    max_tokens: int | None = None,
    date: str | None = None,
    progress: Progress | None = None,
) -> list[Row]:
    """Add `score` to completion rows.

    Args:
        rows: COMPLETION rows (`prompt`, `completion`).
        model: sequence classifier with one label, in evaluation mode.
        tokenizer: the tokenizer the reward model was trained with.
        max_batch_tokens: tokens in a batch; changes speed, not scores.
        max_tokens: rows with more tokens are not scored; None is the model's context.
        date: the date that the chat template prints, where it prints one.
        progress: called with (rows done, rows in all) after each batch.

    Returns:
        The rows in input order with `score`; a row that could not be scored has `score` None and `drop_reason`.

    Raises:
        RewardError: the model is no one-label sequence classifier with a linear head.
    """
    scored = [{key: value for key, value in row.items() if key not in ("score", "drop_reason")} for row in rows]
    done = 0
    for batch in iter_scores(scored, model, RowEncoder(model, tokenizer, max_tokens, date), max_batch_tokens):
        for index, result in batch:
            scored[index].update(result)
        done += len(batch)
        if progress is not None:
            progress(done, len(scored))
    return scored


def iter_scores(
    rows: Sequence[Mapping[str, Any]], model: PreTrainedModel, encoder: RowEncoder, max_batch_tokens: int
) -> Iterator[list[tuple[int, Result]]]:
    """Score rows batch by batch, longest first, so that a batch that does not fit in memory fails at once.

    The completions of a prompt go through the model together and share its tokens, where the model allows it
    (reward/parity.py); other models get padded batches.

    Yields:
        (index into `rows`, result) for each row of a batch; rows that cannot be encoded come first. Each index once.
    """
    head = score_head(model)
    encoded, unusable = encoder.encode(rows)
    if unusable:
        yield unusable
    indices, ids_list = list(encoded), list(encoded.values())
    groups = [_prompt_of(rows[index]) for index in indices]
    check_class(model, head, ids_list, encoder.limit)
    if why_padded(model, head, ids_list, groups, max_batch_tokens) is None:
        batches = packed_hidden(model, ids_list, groups, max_batch_tokens)
    else:
        batches = padded_hidden(model, ids_list, max_batch_tokens)
    for places, hidden_BW in batches:
        scores = zip(places, head_scores(head, hidden_BW), strict=True)
        yield [(indices[place], _result(value)) for place, value in scores]


def measure_noise(
    rows: Sequence[Mapping[str, Any]],
    model: PreTrainedModel,
    encoder: RowEncoder,
    max_batch_tokens: int,
    num_rows: int | None = None,
) -> Noise:
    """Score some of the rows, up to 64, one at a time and in batches, and say how far their scores moved.

    Args:
        rows: of a job, or 64 of them that are spread over it.
        num_rows: of the job, where it has more.
    """
    num_rows = num_rows or len(rows)
    chosen = probe(model, [_prompt_of(row) for row in rows], num_rows)
    encoded, _ = encoder.encode([rows[index] for index in chosen])
    kept = affordable(model, list(encoded.values()), list(encoded), num_rows)
    groups = [_prompt_of(rows[chosen[place]]) for place in kept]
    longest = None
    if encoder.limit is None or why_not_packed(model, encoder.limit) is not None:  # then the longest row decides
        longest = encoder.longest(rows)
    ids_list = [encoded[place] for place in kept]
    parity = compare(model, score_head(model), ids_list, groups, max_batch_tokens, longest)
    return Noise(parity.rows, parity.max_difference, parity.why_padded)


def score_pairs(
    rows: Iterable[Mapping[str, Any]],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_batch_tokens: int = 8192,
    max_tokens: int | None = None,
    date: str | None = None,
) -> tuple[list[Row], list[Row]]:
    """Add `chosen_score` and `rejected_score` to PREFERENCE rows.

    Returns:
        The scored rows in input order, and the rows with a side that could not be scored, with `drop_reason`.
    """
    pairs = [dict(row) for row in rows]
    sides = [
        {"prompt": row["prompt"], "tools": row.get("tools"), "completion": row[side]}
        for row in pairs
        for side in ("chosen", "rejected")
    ]
    results = score_rows(sides, model, tokenizer, max_batch_tokens, max_tokens, date)
    kept, dropped = [], []
    for row, chosen, rejected in zip(pairs, results[::2], results[1::2], strict=True):
        named = (("chosen", chosen), ("rejected", rejected))
        reasons = [f"{name}: {side['drop_reason']}" for name, side in named if side["score"] is None]
        if reasons:
            dropped.append({**row, "drop_reason": "; ".join(reasons)})
        else:
            kept.append({**row, "chosen_score": chosen["score"], "rejected_score": rejected["score"]})
    return kept, dropped


def score_head(model: PreTrainedModel) -> nn.Module:
    """Return the linear head of a one-label sequence classifier.

    Raises:
        RewardError: there is none, or it gives more than one number.
    """
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Module) or not isinstance(getattr(head, "weight", None), Tensor):
        raise RewardError(
            f"{type(model).__name__} has no linear head called 'score'; expected a sequence classifier on a decoder, "
            "as `posttrain train reward-model` writes it."
        )
    if model.config.num_labels != 1:
        raise RewardError(f"the reward model has {model.config.num_labels} labels; expected one number per row.")
    return head


def _prompt_of(row: Mapping[str, Any]) -> str:
    prompt, tools = row.get("prompt"), row.get("tools")
    return prompt if isinstance(prompt, str) and not tools else content_hash([prompt, tools])


def _result(value: float) -> Result:
    if math.isfinite(value):
        return {"score": value}
    return {"score": None, "drop_reason": f"the reward model gave {value}"}
