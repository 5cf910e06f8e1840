"""Prompts of a file, one by one: those that can be used, and why the others cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from posttrain.core.atomic import PathLike
from posttrain.core.errors import DataError
from posttrain.core.file_kinds import hint_on_row
from posttrain.core.formats import Row, read_numbered
from posttrain.core.messages import PROMPT_EXAMPLE, Fault, as_prompt, prompt_id, shown, whole_text
from posttrain.core.row_keys import fault_of_row_keys, fault_of_second_conversation


def read_prompts(path: PathLike) -> tuple[list[Row], list[Row]]:
    """Read prompts, keeping those that can be used and telling why the others cannot.

    A row's `prompt_id` is its `id`, else its `prompt_id`, else the hash of its prompt; a whole number counts as text.
    The second row with an id is a duplicate.

    Returns:
        rows: the input's rows in order, `prompt` made a list of messages, `prompt_id` added, other keys untouched.
        rejects: `{"line", "prompt_id", "reason"}`, the id None where the row has none that can be read. A line is a
            row number, counted from 1, in a Parquet file.

    Raises:
        DataError: there is no such file.
    """
    rows: list[Row] = []
    rejects: list[Row] = []
    lines: dict[str, int] = {}
    for _, row, usable in sorted_out(read_numbered(path), lines.setdefault):
        (rows if usable else rejects).append(row)
    return rows, rejects


def sorted_out(
    numbered: Iterable[tuple[int, Row | str]], first_line: Callable[[str, int], int]
) -> Iterator[tuple[int, Row, bool]]:
    """Stream (line, row, True) for each prompt that can be used and (line, reject, False) for each that cannot.

    Args:
        numbered: (line, row) pairs from anywhere; a text in place of a row is why there is none.
        first_line: given the id of a row that can be used and its line, return the first line with this id: where that
            is another one, the row is a duplicate.
    """
    for line, given in numbered:
        try:
            row = usable_prompt(given)
        except UnusablePrompt as reason:
            yield line, {"line": line, "prompt_id": reason.prompt_id, "reason": str(reason)}, False
            continue
        name = row["prompt_id"]
        first = first_line(name, line)
        if first == line:
            yield line, row, True
        else:
            twice = f"duplicate of line {first}: the same id {name!r}"
            yield line, {"line": line, "prompt_id": name, "reason": twice}, False


class UnusablePrompt(DataError):
    """Say why a row of prompts cannot be used.

    Attributes:
        prompt_id: the row's own id, None where it has none that can be read.
    """

    def __init__(self, prompt_id: str | None, reason: str) -> None:
        super().__init__(reason)
        self.prompt_id = prompt_id


def usable_prompt(row: Row | str) -> Row:
    """Return a row of prompts with `prompt` made a list of messages and `prompt_id` added.

    Args:
        row: a text in place of a row is why there is none.

    Raises:
        UnusablePrompt: the row cannot be used.
    """
    name: str | None = None
    try:
        if isinstance(row, str):
            raise Fault(row)
        name = _own_id(row)
        if "prompt" not in row:
            names = ", ".join(row) or "nothing"
            raise Fault(f"no field 'prompt' (found: {names}); expected {PROMPT_EXAMPLE} or a text{hint_on_row(row)}")
        messages = as_prompt(row["prompt"])
        wrong = fault_of_row_keys(row, messages, learned=False)
        wrong = wrong or fault_of_second_conversation(row, "messages", messages, whole=False)
        if wrong:
            raise Fault(wrong)
    except Fault as fault:
        raise UnusablePrompt(name, str(fault)) from None
    return {**row, "prompt": messages, "prompt_id": prompt_id(messages, row.get("tools")) if name is None else name}


def _own_id(row: Mapping[str, Any]) -> str | None:
    for key in ("id", "prompt_id"):
        value = row.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise Fault(f"field '{key}': expected a text, got {shown(value)}; give a text or leave it out")
        return whole_text(str(value), f"field '{key}'")
    return None
