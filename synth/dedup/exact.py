"""Drop rows that say the same as an earlier one, up to case, spacing and punctuation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from posttrain.core.likeness import task_form
from posttrain.core.tools import plain_tools
from synth.dedup.order import Key, best_first
from synth.errors import MalformedRow
from synth.filters.partition import Dropped, Kept
from synth.rows import Row, completion_text, copies, prompt_messages, row_messages


def conversation_key(row: Mapping[str, Any]) -> str:
    """Make one text of a row's whole prompt, system message and tools included: equal conversations have equal keys."""
    said = "\x1e".join(f"{message['role']}\x1f{task_form(str(message['content']))}" for message in _parts(row))
    tools = plain_tools(row.get("tools"))
    return said if tools is None else f"{said}\x1e{json.dumps(tools, sort_keys=True)}"


def sample_key(row: Mapping[str, Any]) -> str:
    """Make one text of prompt and completion: two samples of one prompt are the same only if they read the same."""
    return f"{conversation_key(row)}\x1d{task_form(completion_text(row))}"


def exact_duplicates(
    rows: Iterable[Mapping[str, Any]],
    against: Iterable[Mapping[str, Any]] = (),
    key: Callable[[Mapping[str, Any]], str] = conversation_key,
    order_by: Key | None = None,
) -> tuple[Kept, Dropped]:
    """Keep one row of each text.

    Args:
        rows: rows in any format that `key` reads.
        against: protected rows (earlier rounds, evaluation prompts): what equals them is dropped, they never are.
        key: gives the text that is compared; rows that it cannot read are dropped.
        order_by: of equal rows the one with the largest value is kept, the earlier one among equals; the first row
            of the input when absent.

    Returns:
        kept and dropped rows in input order. Dropped rows carry `drop_reason` (`exact_duplicate`, or
        `exact_duplicate_of_protected`), `duplicate_of` (the id of the row that stays) and `similarity` 1.0.
    """
    all_rows = copies(rows)
    owners: dict[bytes, tuple[str | None, bool]] = {}
    for row in against:
        owners.setdefault(_digest(key(row)), (row.get("prompt_id"), True))
    reasons: dict[int, Row] = {}
    for position in best_first(all_rows, order_by):
        row = all_rows[position]
        try:
            digest = _digest(key(row))
        except MalformedRow as error:
            reasons[position] = {"drop_reason": f"malformed: {error}"}
            continue
        if digest in owners:
            owner, is_protected = owners[digest]
            reason = "exact_duplicate_of_protected" if is_protected else "exact_duplicate"
            reasons[position] = {"drop_reason": reason, "duplicate_of": owner, "similarity": 1.0}
        else:
            owners[digest] = (row.get("prompt_id"), False)
    kept = [row for position, row in enumerate(all_rows) if position not in reasons]
    dropped = [{**row, **reasons[position]} for position, row in enumerate(all_rows) if position in reasons]
    return kept, dropped


def _parts(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    return prompt_messages(row) if "prompt" in row else row_messages(row)


def _digest(text: str) -> bytes:
    # 128 bits: among a million texts the chance of a false match is below 1e-26.
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
