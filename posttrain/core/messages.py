"""Messages and prompts as values: what each must be, and what is said of one that is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain.core.errors import DataError
from posttrain.core.files import content_hash
from posttrain.core.row_keys import LOSS_KEYS, fault_of_message_keys, is_learned, thought_of
from posttrain.core.tools import Message, fault_of_tool_calls, plain_tools, said_keys

ROLES = ("system", "user", "assistant", "tool")
PROMPT_EXAMPLE = '[{"role": "user", "content": "…"}]'
ANSWER_EXAMPLE = '[{"role": "assistant", "content": "…"}]'


class Fault(Exception):
    """Carry what is wrong with one value, without its place."""


def normalize_prompt(value: Any) -> list[Message]:
    """Make a prompt a list of messages; a text means one user message.

    Raises:
        DataError: empty, wrong roles or order, contents that are no text, or text that UTF-8 cannot hold.
    """
    try:
        return as_prompt(value)
    except Fault as fault:
        raise DataError(str(fault)) from None


def prompt_id(messages: list[Message], tools: Any = None) -> str:
    """Name a prompt by its content, 16 hex digits.

    Args:
        tools: the row's `tools`; a prompt with other tools is another prompt.

    Raises:
        DataError: `tools` is no list of schemas.
    """
    schemas = plain_tools(tools)
    return content_hash(messages if schemas is None else [messages, schemas])


def refuse_half_pairs(value: str, name: str) -> None:
    """Refuse text that UTF-8 cannot hold and no tokenizer takes: half a surrogate pair.

    Raises:
        DataError: names the field and the character.
    """
    try:
        whole_text(value, f"field '{name}'")
    except Fault as fault:
        raise DataError(str(fault)) from None


# ---------------------------------------------------------------- one value: a Fault names the field


def as_prompt(value: Any) -> list[Message]:
    """Do what `normalize_prompt` does."""
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    return prompt_messages(value, "prompt")


def prompt_messages(value: Any, name: str) -> list[Message]:
    """Return the messages of a conversation that waits for an answer."""
    messages = conversation(value, name)
    for i, message in enumerate(messages):
        if message["role"] == "assistant" and any(message.get(key) for key in LOSS_KEYS):
            raise Fault(f"field '{name}[{i}]': a prompt is not learned; give rows with 'messages', or drop the key")
    last = messages[-1]["role"]
    if last not in ("user", "tool"):
        raise Fault(f"field '{name}': a prompt waits for an answer; expected the last role 'user', got '{last}'")
    return messages


def answer_text(value: Any, name: str, allow_empty: bool) -> tuple[str, str]:
    """Return the thought and the text of an answer: a list of one message of the assistant."""
    if not isinstance(value, list) or len(value) != 1:
        raise Fault(f"field '{name}': expected {ANSWER_EXAMPLE}, got {shown(value)}")
    message = _message(value[0], f"{name}[0]", allow_empty)
    if message["role"] != "assistant":
        raise Fault(f"field '{name}': expected the role 'assistant', got '{message['role']}'")
    if "tool_calls" in message:
        raise Fault(f"field '{name}': an answer is a text; tool calls are learned from rows with 'messages'")
    if not is_learned(message):
        raise Fault(f"field '{name}': its keys say that it is not learned, so the row teaches nothing; drop the row")
    return thought_of(message), message["content"]


def conversation(value: Any, name: str) -> list[Message]:
    """Return the messages of a conversation that begins with the user, after a system message where there is one."""
    if not isinstance(value, list) or not value:
        raise Fault(f"field '{name}': expected a list of messages {PROMPT_EXAMPLE}, got {shown(value)}")
    messages = [_message(message, f"{name}[{i}]") for i, message in enumerate(value)]
    for i, message in enumerate(messages):
        if message["role"] == "system" and i > 0:
            raise Fault(f"field '{name}[{i}]': a system message stands first or nowhere")
    roles = [message["role"] for message in messages if message["role"] != "system"]
    if roles and roles[0] != "user":
        raise Fault(f"field '{name}': a conversation begins with the user, got '{roles[0]}'")
    return messages


def _message(value: Any, name: str, allow_empty: bool = False) -> Message:
    if type(value) is not dict and not isinstance(value, Mapping):  # the second takes five times as long
        raise Fault(f"field '{name}': expected a message {{role, content}}, got {shown(value)}")
    message = said_keys(value)
    role, content = message.get("role"), message.get("content", "" if "tool_calls" in message else None)
    if role not in ROLES:
        raise Fault(f"field '{name}.role': expected one of {', '.join(ROLES)}, got {shown(role)}")
    if not isinstance(content, str):
        raise Fault(f"field '{name}.content': expected a text, got {shown(content)}")
    if not content.strip() and not allow_empty and "tool_calls" not in message:
        raise Fault(f"field '{name}.content': empty; give a text or drop the message")
    fault = fault_of_tool_calls(message)
    if fault:
        raise Fault(f"field '{name}.tool_calls': {fault}")
    if len(message) > 2:
        fault = fault_of_message_keys(message)
        if fault:
            raise Fault(f"field '{name}{fault}")
    return {**message, "content": whole_text(content, f"field '{name}.content'")}


def whole_text(value: str, name: str) -> str:
    """Return a text that UTF-8 can hold."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Fault(f"{name}: character {error.start + 1} is half a surrogate pair (bad UTF-8); mend it") from None
    return value


def shown(value: Any, limit: int = 60) -> str:
    """Show what was found, cut to `limit` characters."""
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
