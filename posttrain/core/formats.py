"""The formats that pass between packages: prompts, completions, preferences, rankings, messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from posttrain.core.atomic import PathLike
from posttrain.core.errors import DataError, Faults
from posttrain.core.file_kinds import hint_on_row
from posttrain.core.files import read_jsonl_lenient
from posttrain.core.messages import (
    ANSWER_EXAMPLE,
    PROMPT_EXAMPLE,
    ROLES,
    Fault,
    Message,
    answer_text,
    as_prompt,
    conversation,
    normalize_prompt,
    prompt_id,
    refuse_half_pairs,
    shown,
    whole_text,
)
from posttrain.core.parquet import read_parquet
from posttrain.core.row_keys import fault_of_parts_beside, fault_of_row_keys, fault_of_second_conversation, is_learned

__all__ = [
    "ROLES",
    "Kind",
    "Message",
    "Row",
    "check_rows",
    "normalize_prompt",
    "prompt_id",
    "read_checked_rows",
    "read_numbered",
    "refuse_half_pairs",
]

Row = dict[str, Any]
Kind = Literal["prompt", "completion", "preference", "ranking", "messages"]


def check_rows(rows: Iterable[Mapping[str, Any]], kind: Kind, where: str, allow_empty: bool = False) -> None:
    """Refuse rows that are not of the format `kind`.

    Args:
        where: what the message names, a file for example.
        allow_empty: let an answer be the empty text, as a sampler may give it; nothing can be learned from one.

    Raises:
        DataError: lists the first twenty faults, each with its row number, what was expected and what was found.
    """
    _check_numbered(((f"row {number}", row) for number, row in enumerate(rows, start=1)), kind, where, allow_empty)


def read_checked_rows(path: PathLike, kind: Kind, allow_empty: bool = False) -> list[Row]:
    """Read rows of the format `kind`, every fault of the file listed at once with its line number.

    Raises:
        DataError: the first twenty faults; no row at all; or there is no such file.
    """
    unit = "row" if Path(path).suffix == ".parquet" else "line"
    numbered = [(f"{unit} {number}", row) for number, row in read_numbered(path)]
    if not numbered:
        raise DataError(f"{path} holds no rows; expected {kind} rows")
    _check_numbered(numbered, kind, str(path), allow_empty)
    return [row for _, row in numbered if isinstance(row, dict)]


def _check_numbered(
    numbered: Iterable[tuple[str, Mapping[str, Any] | str]], kind: Kind, where: str, allow_empty: bool
) -> None:
    check = _CHECKS[kind]
    faults = Faults(f"{where} ({kind} rows expected)")
    for place, row in numbered:
        try:
            if isinstance(row, str):
                raise Fault(row)
            check(row, allow_empty)
        except Fault as fault:
            faults.add(f"{place}: {fault}")
    faults.raise_if_any(DataError)


def read_numbered(path: PathLike) -> Iterator[tuple[int, Row | str]]:
    """Stream (line number from 1, row or why the line holds none); in a Parquet file rows are counted."""
    if Path(path).suffix == ".parquet":
        return enumerate(read_parquet(path), start=1)
    return read_jsonl_lenient(path)


# ---------------------------------------------------------------- one row


def _check_prompt_row(row: Mapping[str, Any], allow_empty: bool) -> None:
    _raise(fault_of_row_keys(row, _prompt(row), learned=False))


def _prompt(row: Mapping[str, Any]) -> list[Message]:
    messages = as_prompt(_field(row, "prompt"))
    if isinstance(row.get("prompt_id"), str):
        whole_text(row["prompt_id"], "field 'prompt_id'")
    _raise(fault_of_second_conversation(row, "messages", messages, whole=False))
    return messages


def _check_completion_row(row: Mapping[str, Any], allow_empty: bool) -> None:
    messages = _prompt(row)
    completion = _field(row, "completion", ANSWER_EXAMPLE)
    answer_text(completion, "completion", allow_empty)
    _raise(fault_of_second_conversation(row, "messages", [*messages, *completion], whole=True))
    _raise(fault_of_row_keys(row, messages, learned=True))


def _check_preference_row(row: Mapping[str, Any], allow_empty: bool) -> None:
    messages = _prompt(row)
    chosen = answer_text(_field(row, "chosen", ANSWER_EXAMPLE), "chosen", allow_empty)
    rejected = answer_text(_field(row, "rejected", ANSWER_EXAMPLE), "rejected", allow_empty)
    if chosen == rejected:
        raise Fault("chosen and rejected are the same text; drop the row")
    _raise(fault_of_row_keys(row, messages, learned=True))


def _check_ranking_row(row: Mapping[str, Any], allow_empty: bool) -> None:
    messages = _prompt(row)
    completions = _field(row, "completions", f"[{ANSWER_EXAMPLE}, …] best first")
    if not isinstance(completions, list) or len(completions) < 2:
        raise Fault(f"field 'completions': expected two or more answers, best first, got {shown(completions)}")
    texts = [answer_text(value, f"completions[{i}]", allow_empty) for i, value in enumerate(completions)]
    if len(set(texts)) < len(texts):
        raise Fault("field 'completions': the same text stands there twice; drop one")
    _raise(fault_of_row_keys(row, messages, learned=True))


def _check_messages_row(row: Mapping[str, Any], allow_empty: bool) -> None:
    messages = conversation(_field(row, "messages"), "messages")
    if not any(is_learned(message) for message in messages):
        raise Fault(
            "field 'messages': no assistant message that is learned, so there is nothing to learn; drop the row"
        )
    _raise(fault_of_row_keys(row, messages, learned=True))
    _raise(fault_of_parts_beside(row, messages))


def _raise(fault: str | None) -> None:
    if fault:
        raise Fault(fault)


_CHECKS: dict[str, Callable[[Mapping[str, Any], bool], None]] = {
    "prompt": _check_prompt_row,
    "completion": _check_completion_row,
    "preference": _check_preference_row,
    "ranking": _check_ranking_row,
    "messages": _check_messages_row,
}


def _field(row: Mapping[str, Any], name: str, example: str = PROMPT_EXAMPLE) -> Any:
    if row.get(name) is None:
        found = ", ".join(key for key, value in row.items() if value is not None) or "nothing"
        raise Fault(f"no field '{name}' (found: {found}); expected {example}{hint_on_row(row)}")
    return row[name]
