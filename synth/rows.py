"""Read the texts of a row, whichever of the formats it has."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from posttrain.core.reasoning import without_thought
from synth.errors import MalformedRow

Row = dict[str, Any]
Message = dict[str, Any]


def row_messages(row: Mapping[str, Any]) -> list[Message]:
    """List all messages of a row: those of its prompt and completion, or of `messages`.

    A prompt that is a text counts as one user message.

    Raises:
        MalformedRow: there are no messages, or a content is no text.
    """
    return [*prompt_messages(row), *_messages(row.get("completion", []), "completion")]


def prompt_messages(row: Mapping[str, Any]) -> list[Message]:
    """List the messages of a row's prompt (of a `messages` row: all of them).

    Raises:
        MalformedRow: there is no prompt, or a content is no text.
    """
    name = "prompt" if "prompt" in row else "messages"
    messages = _messages(row.get(name), name)
    if not messages:
        raise MalformedRow(f"no messages in '{name}'")
    return messages


def prompt_text(row: Mapping[str, Any]) -> str:
    """Join what a prompt says, without its system message; turns are on lines of their own."""
    return "\n".join(content_of(message) for message in prompt_messages(row) if message["role"] != "system")


def system_text(row: Mapping[str, Any]) -> str:
    """Join the system messages of a prompt; empty where there are none."""
    return "\n".join(content_of(message) for message in prompt_messages(row) if message["role"] == "system")


def completion_text(row: Mapping[str, Any]) -> str:
    """Join a row's completion.

    Raises:
        MalformedRow: the row has no completion.
    """
    if "completion" not in row:
        raise MalformedRow("no field 'completion'")
    return "\n".join(content_of(message) for message in _messages(row["completion"], "completion"))


def answer_text(row: Mapping[str, Any]) -> str:
    """Return what a row's completion says after its thoughts: empty where it breaks off in one.

    Filters of what is said read this; those of how much was written (tokens, loops) read `completion_text`.

    Raises:
        MalformedRow: as `completion_text`.
    """
    return without_thought(completion_text(row))


def content_of(message: Mapping[str, Any]) -> str:
    """Give a message's content; a message of tool calls alone has none."""
    return message.get("content") or ""


def all_texts(row: Mapping[str, Any]) -> list[str]:
    """List every text that a template would render: contents, and names and arguments of tool calls."""
    texts = []
    for message in row_messages(row):
        texts.append(content_of(message))
        texts.extend(_strings(message.get("tool_calls")))
    return texts


def row_name(row: Mapping[str, Any], position: int) -> str:
    """Name a row in a message: its id, or its place counted from 1."""
    return str(row["prompt_id"]) if row.get("prompt_id") is not None else f"row {position + 1}"


def copies(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Copy rows one level deep, so that columns can be added without touching the input."""
    return [dict(row) for row in rows]


def _messages(value: Any, name: str) -> list[Message]:
    if isinstance(value, str):
        return [{"role": "assistant" if name == "completion" else "user", "content": value}]
    if not isinstance(value, list):
        raise MalformedRow(f"'{name}' is no list of messages")
    for message in value:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise MalformedRow(f"'{name}' holds something that is no message")
        has_calls = bool(message.get("tool_calls"))
        if not isinstance(message.get("content"), str) and not (has_calls and message.get("content") is None):
            raise MalformedRow(f"'{name}' holds a content that is no text")
    return value


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value, *_strings_in_json(value)]
    if isinstance(value, Mapping):
        return [text for key, part in value.items() for text in [str(key), *_strings(part)]]
    if isinstance(value, list):
        return [text for part in value for text in _strings(part)]
    return []


def _strings_in_json(text: str) -> list[str]:
    # Arguments often travel as JSON text, where an escape (\u003c) can hide a control token.
    if not text.lstrip().startswith(("{", "[")):
        return []
    try:
        value = json.loads(text)
    except ValueError:
        return []
    return _strings(value) if isinstance(value, dict | list) else []
