"""The formats that pass between packages: prompts, completions, preferences, rankings, messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from posttrain.core.atomic import PathLike
from posttrain.core.errors import DataError, Faults
from posttrain.core.files import content_hash, read_jsonl_lenient
from posttrain.core.parquet import read_parquet
from posttrain.core.tools import Message, fault_of_tool_calls, fault_of_tools

Row = dict[str, Any]
Kind = Literal["prompt", "completion", "preference", "ranking", "messages"]

ROLES = ("system", "user", "assistant", "tool")
_EXAMPLE = '[{"role": "user", "content": "…"}]'
_ANSWER_EXAMPLE = '[{"role": "assistant", "content": "…"}]'


class _Fault(Exception):
    """Carry what is wrong with one value, without its place."""


def normalize_prompt(value: Any) -> list[Message]:
    """Make a prompt a list of messages; a text means one user message.

    Raises:
        DataError: empty, wrong roles or order, contents that are no text, or text that UTF-8 cannot hold.
    """
    try:
        return _prompt(value)
    except _Fault as fault:
        raise DataError(str(fault)) from None


def prompt_id(messages: list[Message]) -> str:
    """Name a prompt by its content, 16 hex digits."""
    return content_hash(messages)


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
    return sort_prompts(read_numbered(path))


def sort_prompts(numbered: Iterable[tuple[int, Row | str]]) -> tuple[list[Row], list[Row]]:
    """Do what `read_prompts` does for (number, row) pairs from anywhere; a text in place of a row is why it is bad."""
    rows: list[Row] = []
    rejects: list[Row] = []
    first_line: dict[str, int] = {}
    for line, row in numbered:
        try:
            rows.append(usable_prompt(row))
        except UnusablePrompt as reason:
            rejects.append({"line": line, "prompt_id": reason.prompt_id, "reason": str(reason)})
            continue
        name = rows[-1]["prompt_id"]
        if first_line.setdefault(name, line) != line:
            rows.pop()
            rejects.append(duplicate_reject(line, name, first_line[name]))
    return rows, rejects


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
            raise _Fault(row)
        name = _own_id(row)
        if "prompt" not in row:
            raise _Fault(f"no field 'prompt' (found: {', '.join(row) or 'nothing'}); expected {_EXAMPLE} or a text")
        messages = _prompt(row["prompt"])
    except _Fault as fault:
        raise UnusablePrompt(name, str(fault)) from None
    return {**row, "prompt": messages, "prompt_id": prompt_id(messages) if name is None else name}


def duplicate_reject(line: int, name: str, first_line: int) -> Row:
    """Make the reject of a row whose id another row had before."""
    return {"line": line, "prompt_id": name, "reason": f"duplicate of line {first_line}: the same id {name!r}"}


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
                raise _Fault(row)
            check(row, allow_empty)
        except _Fault as fault:
            faults.add(f"{place}: {fault}")
    faults.raise_if_any(DataError)


def read_numbered(path: PathLike) -> Iterator[tuple[int, Row | str]]:
    """Stream (line number from 1, row or why the line holds none); in a Parquet file rows are counted."""
    if Path(path).suffix == ".parquet":
        return enumerate(read_parquet(path), start=1)
    return read_jsonl_lenient(path)


def _own_id(row: Mapping[str, Any]) -> str | None:
    for key in ("id", "prompt_id"):
        value = row.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise _Fault(f"field '{key}': expected a text, got {_show(value)}; give a text or leave it out")
        return _text(str(value), f"field '{key}'")
    return None


# ---------------------------------------------------------------- one row


def _check_prompt_row(row: Mapping[str, Any], allow_empty: bool) -> None:
    _conversation(_field(row, "prompt"), "prompt")
    if isinstance(row.get("prompt_id"), str):
        _text(row["prompt_id"], "field 'prompt_id'")


def _check_completion_row(row: Mapping[str, Any], allow_empty: bool) -> None:
    _check_prompt_row(row, allow_empty)
    _answer(_field(row, "completion", _ANSWER_EXAMPLE), "completion", allow_empty)


def _check_preference_row(row: Mapping[str, Any], allow_empty: bool) -> None:
    _check_prompt_row(row, allow_empty)
    chosen = _answer(_field(row, "chosen", _ANSWER_EXAMPLE), "chosen", allow_empty)
    rejected = _answer(_field(row, "rejected", _ANSWER_EXAMPLE), "rejected", allow_empty)
    if chosen == rejected:
        raise _Fault("chosen and rejected are the same text; drop the row")


def _check_ranking_row(row: Mapping[str, Any], allow_empty: bool) -> None:
    _check_prompt_row(row, allow_empty)
    completions = _field(row, "completions", f"[{_ANSWER_EXAMPLE}, …] best first")
    if not isinstance(completions, list) or len(completions) < 2:
        raise _Fault(f"field 'completions': expected two or more answers, best first, got {_show(completions)}")
    texts = [_answer(value, f"completions[{i}]", allow_empty) for i, value in enumerate(completions)]
    if len(set(texts)) < len(texts):
        raise _Fault("field 'completions': the same text stands there twice; drop one")


def _check_messages_row(row: Mapping[str, Any], allow_empty: bool) -> None:
    messages = _messages(_field(row, "messages"), "messages")
    if all(message["role"] != "assistant" for message in messages):
        raise _Fault("field 'messages': no assistant message, so there is nothing to learn; drop the row")
    fault = fault_of_tools(row.get("tools"))
    if fault:
        raise _Fault(f"field 'tools': {fault}")


_CHECKS: dict[str, Callable[[Mapping[str, Any], bool], None]] = {
    "prompt": _check_prompt_row,
    "completion": _check_completion_row,
    "preference": _check_preference_row,
    "ranking": _check_ranking_row,
    "messages": _check_messages_row,
}


# ---------------------------------------------------------------- values


def _field(row: Mapping[str, Any], name: str, example: str = _EXAMPLE) -> Any:
    if row.get(name) is None:
        found = ", ".join(key for key, value in row.items() if value is not None) or "nothing"
        raise _Fault(f"no field '{name}' (found: {found}); expected {example}")
    return row[name]


def _prompt(value: Any) -> list[Message]:
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    return _conversation(value, "prompt")


def _conversation(value: Any, name: str) -> list[Message]:
    messages = _messages(value, name)
    last = messages[-1]["role"]
    if last not in ("user", "tool"):
        raise _Fault(f"field '{name}': a prompt waits for an answer; expected the last role 'user', got '{last}'")
    return messages


def _answer(value: Any, name: str, allow_empty: bool) -> str:
    if not isinstance(value, list) or len(value) != 1:
        raise _Fault(f"field '{name}': expected {_ANSWER_EXAMPLE}, got {_show(value)}")
    message = _message(value[0], f"{name}[0]", allow_empty)
    if message["role"] != "assistant":
        raise _Fault(f"field '{name}': expected the role 'assistant', got '{message['role']}'")
    if "tool_calls" in message:
        raise _Fault(f"field '{name}': an answer is a text; tool calls are learned from rows with 'messages'")
    return message["content"]


def _messages(value: Any, name: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise _Fault(f"field '{name}': expected a list of messages {_EXAMPLE}, got {_show(value)}")
    messages = [_message(message, f"{name}[{i}]") for i, message in enumerate(value)]
    for i, message in enumerate(messages):
        if message["role"] == "system" and i > 0:
            raise _Fault(f"field '{name}[{i}]': a system message stands first or nowhere")
    roles = [message["role"] for message in messages if message["role"] != "system"]
    if roles and roles[0] != "user":
        raise _Fault(f"field '{name}': a conversation begins with the user, got '{roles[0]}'")
    return messages


def _message(value: Any, name: str, allow_empty: bool = False) -> Message:
    if type(value) is not dict and not isinstance(value, Mapping):  # the second takes five times as long
        raise _Fault(f"field '{name}': expected a message {{role, content}}, got {_show(value)}")
    # Parquet gives every message the keys of all others, as None.
    message = {key: part for key, part in value.items() if part is not None}
    role, content = message.get("role"), message.get("content", "" if "tool_calls" in message else None)
    if role not in ROLES:
        raise _Fault(f"field '{name}.role': expected one of {', '.join(ROLES)}, got {_show(role)}")
    if not isinstance(content, str):
        raise _Fault(f"field '{name}.content': expected a text, got {_show(content)}")
    if not content.strip() and not allow_empty and "tool_calls" not in message:
        raise _Fault(f"field '{name}.content': empty; give a text or drop the message")
    fault = fault_of_tool_calls(message)
    if fault:
        raise _Fault(f"field '{name}.tool_calls': {fault}")
    return {**message, "content": _text(content, f"field '{name}.content'")}


def refuse_half_pairs(value: str, name: str) -> None:
    """Refuse text that UTF-8 cannot hold and no tokenizer takes: half a surrogate pair.

    Raises:
        DataError: names the field and the character.
    """
    try:
        _text(value, f"field '{name}'")
    except _Fault as fault:
        raise DataError(str(fault)) from None


def _text(value: str, name: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _Fault(f"{name}: character {error.start + 1} is half a surrogate pair (bad UTF-8); mend it") from None
    return value


def _show(value: Any, limit: int = 60) -> str:
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
