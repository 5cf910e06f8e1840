"""Keys of rows and messages that change what a row means: read, or refused; never passed over.

Other columns travel along unread. These are not such columns: left out without a word, a row would be sampled, scored
or learned as another conversation than its author wrote.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.core.tools import fault_of_tools

THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking")
"""Keys of an assistant message that hold its thoughts; `reasoning_content` is the one that servers return."""
LOSS_KEYS = ("weight", "train", "training", "trainable", "loss", "loss_mask", "learn")
"""Keys of a message that say whether it is learned: 0 or false, 1 or true."""

_LIKE_LOSS = re.compile(r"(^|_)(no_?loss|un)?(mask|masked|loss|weights?|train\w*|learn\w*|supervis\w*|ignore)(_|$)")
_LIKE_THOUGHT = re.compile(r"(^|_)(reason\w*|think\w*|thoughts?|cot|chain_of_thought)(_|$)")
_OF_MESSAGES = {
    "function_call": "calls stand in 'tool_calls'",
    "prefix": "an answer that is to be continued cannot be expressed; drop the key where it is to be learned as it is",
    "partial": "an answer that is to be continued cannot be expressed; drop the key where it is to be learned as it is",
    "images": "only text is read",
    "image": "only text is read",
    "audio": "only text is read",
    "video": "only text is read",
    "videos": "only text is read",
}
_OF_ROWS = {
    "chat_template_kwargs": "arguments of the chat template are not read; change the template, or drop the key",
    "functions": "schemas of functions stand in 'tools'",
    "documents": "documents are not given to the template; write them into a message",
    "images": "only text is read",
    "image": "only text is read",
    "audio": "only text is read",
    "video": "only text is read",
    "videos": "only text is read",
}
_OF_TRAINING_ROWS = {
    **dict.fromkeys(THOUGHT_KEYS, "write it into the message as 'reasoning_content', or rename the column"),
    **dict.fromkeys(
        ("loss_mask", "mask", "masks", "assistant_mask", "assistant_masks", "train_mask"),
        'masks of rows are not read; give a message that is not to be learned "weight": 0',
    ),
    "weight": "rows have no weights; repeat or drop the row, or rename the column",
}


def fault_of_message_keys(message: Mapping[str, Any]) -> str | None:
    """Say which key of a message cannot be read, and what to do; None where there is none.

    Args:
        message: without keys that are None.
    """
    for key, value in message.items():
        if key in ("role", "content", "tool_calls"):
            continue
        if key in LOSS_KEYS:
            fault = _fault_of_flag(message, key, value)
        elif key in THOUGHT_KEYS:
            fault = _fault_of_thought(message, key, value)
        elif key in _OF_MESSAGES:
            fault = _OF_MESSAGES[key] if value not in (False, [], {}, "") else None
        elif _LIKE_LOSS.search(key.lower()):
            fault = 'whether a message is learned is read from "weight": 0 or 1 alone (or true and false in "train")'
        elif _LIKE_THOUGHT.search(key.lower()) and value and not isinstance(value, int | float):  # those only measure
            fault = "thoughts are read from 'reasoning_content' alone"
        else:
            fault = None
        if fault:
            return f".{key}': {fault}; got {_show(value)}"
    flags = {bool(message[key]) for key in LOSS_KEYS if key in message}
    return None if len(flags) < 2 else "': its keys say both that it is learned and that it is not; keep one"


def _fault_of_flag(message: Mapping[str, Any], key: str, value: Any) -> str | None:
    if isinstance(value, str) or value not in (0, 1):
        return "a message is learned (1, true) or not (0, false), nothing between"
    if value and message.get("role") != "assistant":
        return "only messages of the assistant are learned; drop the key"
    return None


def _fault_of_thought(message: Mapping[str, Any], key: str, value: Any) -> str | None:
    if not isinstance(value, str):
        return "expected a text"
    if value and message.get("role") != "assistant":
        return "only the assistant thinks; drop the key"
    others = [message[name] for name in THOUGHT_KEYS if message.get(name) and name != key]
    return "the message holds another thought too; keep one" if value and any(o != value for o in others) else None


def thought_of(message: Mapping[str, Any]) -> str:
    """Return an assistant message's thought, empty where it has none."""
    return next((str(message[key]) for key in THOUGHT_KEYS if message.get(key)), "")


def is_learned(message: Mapping[str, Any]) -> bool:
    """Tell whether a message is to be learned: one of the assistant's whose keys do not say otherwise."""
    return message.get("role") == "assistant" and all(message.get(key) in (None, 1) for key in LOSS_KEYS)


def fault_of_row_keys(row: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], learned: bool) -> str | None:
    """Say which column of a row cannot be read, and what to do; None where there is none.

    Args:
        messages: the conversation, or the prompt, that was read from the row.
        learned: whether the row is there to be trained on.
    """
    fault = fault_of_tools(row.get("tools"))
    if fault:
        return f"field 'tools': {fault}"
    refused = {**_OF_ROWS, **(_OF_TRAINING_ROWS if learned else {})}
    for key, reason in refused.items():
        value = row.get(key)
        if value not in (None, [], {}, "", False) and not (key == "weight" and value == 1):
            return f"field '{key}': {reason}; got {_show(value)}"
    for key in ("system", "system_prompt"):
        said = row.get(key)
        if said not in (None, "") and (messages[0]["role"] != "system" or messages[0]["content"] != said):
            return f"field '{key}': not read; make it the first message, of the role 'system', or rename the column"
    return None


def fault_of_second_conversation(
    row: Mapping[str, Any], name: str, messages: Sequence[Mapping[str, Any]], whole: bool
) -> str | None:
    """Say where a row holds a second conversation, `name`, beside the one that was read.

    Args:
        messages: what was read.
        whole: whether both must be the same; else the second may go on where the first ends.
    """
    if row.get(name) is None:
        return None
    read, other = _turns(messages, "user"), _turns(row[name], "user")
    agrees = other is not None and (other == read or (not whole and other[: len(read or [])] == read))
    return None if agrees else f"field '{name}': {_ANOTHER}"


def fault_of_parts_beside(row: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> str | None:
    """Say where a row's `prompt` and `completion` are not turns of the `messages` that are read instead of them.

    Data sets repeat the first turns as `prompt`, often as a text and without the system message.
    """
    read = _turns(messages, "user") or []
    prompt, completion = _turns(row.get("prompt") or [], "user"), _turns(row.get("completion") or [], "assistant")
    if prompt is None or completion is None:
        return f"field '{'prompt' if prompt is None else 'completion'}': {_ANOTHER}"
    if not prompt:
        return None if read[len(read) - len(completion) :] == completion else f"field 'completion': {_ANOTHER}"
    turns = [*prompt, *completion]
    begins = [read, read[1:] if read[0][0] == "system" else read]
    return None if any(begin[: len(turns)] == turns for begin in begins) else f"field 'prompt': {_ANOTHER}"


_ANOTHER = "another conversation than the one that is read; keep one, or rename the column"


def _turns(value: Any, role: str) -> list[tuple[Any, str]] | None:
    """Give who says what, up to white space around it; a text is said by `role`. None where it is no conversation."""
    if isinstance(value, str):
        return [(role, value.strip())]
    if not isinstance(value, Sequence) or not all(isinstance(message, Mapping) for message in value):
        return None
    return [(message.get("role"), str(message.get("content") or "").strip()) for message in value]


def _show(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
