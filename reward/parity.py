"""Whether a model may be run over packs, and how far a score moves with its batch: both measured on some rows.

Packs are an optimisation with its own attention. Before they are used, rows are scored by the model's own forward, one
at a time, and the hidden states have to agree.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from posttrain.core.shared_prefix import UnsupportedModel, rounding_limit, why_not_packed
from reward.errors import RewardError
from reward.forward import Ids, head_scores, last_token_hidden, packed_hidden, padded_hidden
from reward.noise import MOST_ROWS, spread

# Of a job one row in 128 is compared, and one token in 20: a row alone computes its whole prompt, and in a small model
# the calls cost more than the arithmetic (2,000 rows through 0.4 M parameters: 6 % of the time).
_ROWS_FOR_ONE_COMPARED = 128
_TOKENS_FOR_ONE_COMPARED = 20
# In low precision the largest difference of a few rows says little about the others.
_LEAST_ROWS, _LEAST_ROWS_LOW_PRECISION = 4, 16
_like_class: WeakSet[PreTrainedModel] = WeakSet()
_known: WeakKeyDictionary[PreTrainedModel, str | None] = WeakKeyDictionary()


@dataclass(frozen=True)
class Parity:
    """Say how a model is run and what its batches do to scores.

    Attributes:
        why_padded: why packs are not used, None where they are.
        rows: number of rows compared.
        max_difference: the most that a score, or the difference between two scores, moved between rows alone and in
            their batch; None where no row was compared.
    """

    why_padded: str | None
    rows: int
    max_difference: float | None


def compare(
    model: PreTrainedModel,
    head: nn.Module,
    ids_list: Sequence[Ids],
    groups: Sequence[Hashable],
    max_batch_tokens: int,
    longest: int | None = None,
) -> Parity:
    """Score rows one at a time and in batches, in packs where those agree.

    Args:
        longest: tokens of the longest row of the job, where that is not among these.

    Raises nothing where packs do not agree: it warns, and the model is remembered as one for padded batches.
    """
    if not ids_list:
        return Parity(why_not_packed(model, 0), 0, None)
    alone = torch.cat([last_token_hidden(model, [ids]) for ids in ids_list])
    why = why_not_packed(model, longest or max(map(len, ids_list)))
    together, why_unlike = None, None
    if why is None:
        together, why_unlike = _packed_like(model, alone, ids_list, groups, max_batch_tokens)
        if why_unlike is not None or len(set(groups)) < len(groups):  # else no prompt was shared
            _known[model] = why_unlike
    if together is None:
        together = _in_order(padded_hidden(model, ids_list, max_batch_tokens))
    scores = zip(head_scores(head, together), head_scores(head, alone), strict=True)
    moved = [a - b for a, b in scores if math.isfinite(a - b)]
    # Of two scores that move apart each moves less than their difference, which is what a choice goes by.
    furthest = max([0.0, *moved]) - min([0.0, *moved])
    return Parity(why or why_unlike, len(moved), furthest if moved else None)


def why_padded(
    model: PreTrainedModel,
    head: nn.Module,
    ids_list: Sequence[Ids],
    groups: Sequence[Hashable],
    max_batch_tokens: int,
) -> str | None:
    """Say why rows go through a model in padded batches, None where packs serve; a model is compared once."""
    if not ids_list:
        return None
    why = why_not_packed(model, max(map(len, ids_list)))
    if why is None and model not in _known:
        places = probe(model, groups, len(ids_list))
        places = affordable(model, [ids_list[place] for place in places], places, len(ids_list))
        rows = [ids_list[place] for place in places]
        compare(model, head, rows, [groups[place] for place in places], max_batch_tokens)
    return why or _known.get(model)


@torch.inference_mode()
def check_class(model: PreTrainedModel, head: nn.Module, ids_list: Sequence[Ids], limit: int | None) -> None:
    """Compare the score of a row, once for each model, with what the model's own class gives it beside padding.

    Args:
        limit: tokens that the model reads, None where its configuration does not say.

    Raises:
        RewardError: they differ by more than rounding.
    """
    if model in _like_class or not ids_list:
        return
    ids = min(map(list, ids_list), key=len)
    pad_id = model.config.get_text_config().pad_token_id
    padding = [] if pad_id is None or (limit is not None and len(ids) >= limit) else [pad_id]
    hidden_1W = last_token_hidden(model, [ids])
    (ours,) = head_scores(head, hidden_1W)
    inputs = torch.tensor([[*ids, *padding]], device=model.device)
    theirs = float(model(input_ids=inputs, attention_mask=torch.ones_like(inputs), use_cache=False).logits[0, 0])
    size = float(hidden_1W.float().norm() * head.weight.float().norm())  # type: ignore[operator, union-attr]
    allowed = max(rounding_limit(model, hidden_1W.dtype), torch.finfo(head.weight.dtype).eps) * size  # type: ignore[arg-type]
    if math.isfinite(ours) and not abs(ours - theirs) <= allowed:
        raise RewardError(
            f"a row of {len(ids)} tokens has the score {ours:.4f} here and {theirs:.4f} from {type(model).__name__} "
            f"itself (limit {allowed:.2g}): it does not read its score at the last token that is not padding "
            f"(pad_token_id {pad_id}). This reward model cannot be used."
        )
    _like_class.add(model)


def probe(model: PreTrainedModel, groups: Sequence[Hashable], num_rows: int) -> list[int]:
    """Choose up to 64 rows for a comparison, as `spread` does; fewer for a small job.

    Args:
        groups: the prompts of the job's rows, or of up to 64 of them.
        num_rows: of the job.
    """
    return spread(groups, min(MOST_ROWS, max(_least(model), num_rows // _ROWS_FOR_ONE_COMPARED)))


def affordable(model: PreTrainedModel, ids_list: Sequence[Ids], indices: Sequence[int], num_rows: int) -> list[int]:
    """Keep so many of the rows that computing them one by one is a small part of computing `num_rows` such rows."""
    mean = sum(map(len, ids_list)) / max(1, len(ids_list))
    kept: list[int] = []
    tokens = 0
    for index, ids in zip(indices, ids_list, strict=True):
        tokens += len(ids)
        if len(kept) >= _least(model) and tokens * _TOKENS_FOR_ONE_COMPARED > mean * num_rows:
            break
        kept.append(index)
    return kept


def _least(model: PreTrainedModel) -> int:
    return _LEAST_ROWS if torch.finfo(model.dtype).bits >= 32 else _LEAST_ROWS_LOW_PRECISION


def _packed_like(
    model: PreTrainedModel,
    alone_BW: Tensor,
    ids_list: Sequence[Ids],
    groups: Sequence[Hashable],
    max_batch_tokens: int,
) -> tuple[Tensor | None, str | None]:
    """Return the hidden states from packs where they agree with those of rows alone, else why they do not."""
    try:
        packed_BW = _in_order(packed_hidden(model, ids_list, groups, max_batch_tokens))
    except (UnsupportedModel, TypeError) as error:  # TypeError: a layer that takes no further arguments
        return None, _warned(str(error))
    distance_B = (packed_BW.float() - alone_BW.float()).norm(dim=1) / alone_BW.float().norm(dim=1)
    distance, allowed = float(distance_B.max()), rounding_limit(model, packed_BW.dtype)
    if not distance <= allowed:
        return None, _warned(f"its hidden states in packs are off by {distance:.2g} (limit {allowed:.2g})")
    return packed_BW, None


def _in_order(parts: Iterable[tuple[list[int], Tensor]]) -> Tensor:
    hidden: dict[int, Tensor] = {}
    for indices, hidden_BW in parts:
        hidden.update(zip(indices, hidden_BW, strict=True))
    return torch.stack([hidden[index] for index in range(len(hidden))])


def _warned(why: str) -> str:
    warnings.warn(
        f"the reward model is scored in padded batches, which take longer: {why}. The scores are right.", stacklevel=4
    )
    return why
