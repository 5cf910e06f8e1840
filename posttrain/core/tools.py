"""Tool calls and tool definitions in rows: checked, and in the one form that chat templates read.

The form is that of transformers and TRL: an assistant message has `tool_calls`, a list of
`{"type": "function", "function": {"name", "arguments"}}` with perhaps an `id`; a message of the role `tool` holds what
came back; a row's `tools` are JSON schemas of the functions. Also read are arguments and tools as JSON text, as OpenAI
writes arguments and as Parquet can hold them, and calls without the wrapper `function`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.core.errors import DataError

Message = dict[str, Any]
_CALL = '{"type": "function", "function": {"name": "…", "arguments": {…}}}'
_TOOL = '{"type": "function", "function": {"name": "…", "description": "…", "parameters": {…}}}'

_AS_TEXT = "give them as JSON text (Parquet gives every object the keys of all others, as null)"


def said_keys(message: Mapping[str, Any]) -> Message:
    """Return a message without keys that say nothing.

    Parquet gives every message the keys of all others, as None; servers give every answer a list of calls, empty.
    """
    said = {key: part for key, part in message.items() if part is not None}
    if said.get("tool_calls") == []:
        del said["tool_calls"]
    return said


def fault_of_tool_calls(message: Mapping[str, Any]) -> str | None:
    """Say what is wrong with a message's `tool_calls`; None where nothing is, or where it has none."""
    value = message.get("tool_calls")
    if value is None:
        return None
    if message.get("role") != "assistant":
        return f"only the assistant calls tools, got the role {message.get('role')!r}"
    if not isinstance(value, list) or not value:
        return f"expected a list of calls [{_CALL}], got {_show(value)}"
    for place, call in enumerate(value):
        function = _function(call)
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not name:
            return f"call {place + 1}: expected {_CALL}, got {_show(call)}"
        if not isinstance(_read_json(function.get("arguments", {})), Mapping):
            return f"call {place + 1}: arguments must be an object or its JSON text, got {_show(function['arguments'])}"
        if _holds_null(function.get("arguments")):
            return f"call {place + 1}: arguments hold null: {_show(function['arguments'])}; {_AS_TEXT}"
    return None


def fault_of_tools(value: Any) -> str | None:
    """Say what is wrong with a row's `tools`; None where nothing is, or where it has none."""
    if value is None:
        return None
    tools = _read_json(value)
    if not isinstance(tools, list):
        return f"expected a list of schemas [{_TOOL}] or its JSON text, got {_show(value)}"
    for place, tool in enumerate(tools):
        function = _function(tool)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            return f"tool {place + 1}: expected {_TOOL}, got {_show(tool)}"
    if _holds_null(value):
        return f"a schema holds null: {_show(value)}; {_AS_TEXT}"
    return None


def plain_messages(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Return the messages as templates read them: without empty keys, calls in the one form.

    A key that is None is taken out: Parquet gives every message the keys of all others, and many a template asks
    whether a message has `tool_calls` at all.

    Raises:
        DataError: tool calls that are none.
    """
    return [_plain_message(message) for message in messages]


def plain_tools(value: Any) -> list[dict[str, Any]] | None:
    """Return a row's `tools` as a list of schemas; None where there are none.

    Raises:
        DataError: no list of schemas.
    """
    fault = fault_of_tools(value)
    if fault:
        raise DataError(f"field 'tools': {fault}")
    return None if value is None else [dict(tool) for tool in _read_json(value)] or None


def names_of_calls(message: Mapping[str, Any]) -> list[str]:
    """List the functions that a message in the one form calls."""
    return [call["function"]["name"] for call in message.get("tool_calls") or []]


def _plain_message(message: Mapping[str, Any]) -> Message:
    plain = said_keys(message)
    if "tool_calls" not in plain:
        return plain
    fault = fault_of_tool_calls(plain)
    if fault:
        raise DataError(f"field 'tool_calls': {fault}")
    return {"content": "", **plain, "tool_calls": [_plain_call(call) for call in plain["tool_calls"]]}


def _plain_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = _function(call)
    arguments = dict(_read_json(function.get("arguments", {})))
    plain = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return plain if call.get("id") is None else {**plain, "id": call["id"]}


def _function(value: Any) -> Any:
    """Return the function of a call or schema, with or without its wrapper."""
    inner = value.get("function") if isinstance(value, Mapping) else None
    return value if inner is None else inner


def _read_json(value: Any) -> Any:
    if not isinstance(value, str):
        return {} if value is None else value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _holds_null(value: Any) -> bool:
    """Tell whether an object or list, not a text, has a null in it that may be no more than a filled-in column."""
    if isinstance(value, Mapping):
        return any(part is None or _holds_null(part) for part in value.values())
    return isinstance(value, list) and any(_holds_null(part) for part in value)


def _show(value: Any, limit: int = 80) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
