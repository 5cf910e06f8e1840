"""What is taken from a chat completion: a sample, a cut sample, a refusal in the server's words, or a fault."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from posttrain.core.formats import Message
from posttrain.core.row_keys import THOUGHT_KEYS
from synth.engines.base import ECHO, LEFT_OUT, LOW_COUNT, STOP_AT_LIMIT, Request, Sample
from synth.engines.connection import MAX_WORDS, words_of

# Names of one thing by different servers, in lower case.
_STOP = {"stop", "eos", "eos_token", "end_turn", "stop_sequence", "stop_token", "end", "complete"}
_LENGTH = {"length", "max_tokens", "max_length", "max_output_tokens", "model_length", "token_limit"}
_FILTER = {"content_filter", "content_filtered", "safety", "refusal", "recitation", "blocklist", "prohibited_content"}
_CALLS = {"tool_calls", "tool_call", "tool_use", "function_call"}
_BROKEN_OFF = {"abort", "aborted", "cancelled", "error", "insufficient_system_resource"}

LEAST_WINDOW = 256
"""A prompt that is cut fills the server's window. A smaller count is of a server that does not count, or not all."""
LEAST_ECHO = 40
"""Shortest prompt, in characters, that an answer is not expected to begin with."""
TOKENS_PER_WORD = 0.9
"""Fewest, on average over a text: tokens that cross spaces are the exception, and there are usually 1.2 and more."""
UNSPACED_PER_TOKEN = 6.0
"""Most characters in a token on average, of scripts without spaces."""


class BadReply(Exception):
    """A reply that cannot be a sample.

    Args:
        may_pass: asking again may help.
    """

    def __init__(self, message: str, may_pass: bool = True) -> None:
        super().__init__(message)
        self.may_pass = may_pass


class Refused(Exception):
    """The server will never answer this prompt."""


def read_reply(text: str, request: Request, place: int, limit: int, has_neutral: bool = True) -> Sample:
    """Make the body of a chat completion a sample.

    An answer is content alone, never a thought. Without content, or with as many tokens as were allowed, it is cut,
    whatever finish_reason says.

    Args:
        limit: tokens that the answer was allowed.
        has_neutral: the request said which of the server's own defaults are off.

    Raises:
        BadReply: it is no chat completion, or does not tell what a sample needs.
        Refused: the server filtered the answer, declined, called a tool, or cut the prompt.
    """
    reply = _decoded(text)
    choice = _only_choice(reply)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise BadReply(f"the reply has no message but {_quoted(choice)}")
    reason = _finish_reason(choice)
    content = _content(message, reason)
    num_tokens, notes = _count(reply, request, content or "")
    if not has_neutral:
        notes += (LEFT_OUT,)
    if num_tokens >= limit and reason == "stop":
        notes += (STOP_AT_LIMIT,)
    if _is_echo(content or "", request.messages):
        notes += (ECHO,)
    return Sample(
        key=request.key,
        sample_index=request.sample_indices[place],
        text=content or "",
        ids=None,
        finish_reason="length" if content is None or num_tokens >= limit else reason,
        num_tokens=num_tokens,
        seed=request.seeds[place],
        notes=notes,
    )


def _decoded(text: str) -> dict[str, Any]:
    try:
        reply = json.loads(text)
    except ValueError as error:
        what = "a stream" if text.lstrip().startswith("data:") else "no JSON" if text.strip() else "empty"
        raise BadReply(f"the reply is {what}: {_quoted(text)}") from error
    if not isinstance(reply, dict):
        raise BadReply(f"the reply is no JSON object: {_quoted(reply)}")
    return reply


def _only_choice(reply: dict[str, Any]) -> dict[str, Any]:
    choices = reply.get("choices")
    if isinstance(choices, list) and len(choices) == 1 and isinstance(choices[0], dict):
        error = choices[0].get("error") or reply.get("error")
        if error and not choices[0].get("message"):
            raise BadReply(f"the reply is an error: {words_of(error)}")
        return choices[0]
    if reply.get("error") or (choices is None and (reply.get("detail") or reply.get("message"))):
        _raise_error_inside(reply)
    found = f"{len(choices)} choices" if isinstance(choices, list) else f"no choices: {_quoted(reply)}"
    raise BadReply(f"the reply has {found}, expected 1")


def _raise_error_inside(reply: dict[str, Any]) -> None:
    """Take an error in a reply of status 200 for what the same error with its own status would be."""
    error = reply.get("error")
    code = (error.get("code") or error.get("status")) if isinstance(error, dict) else reply.get("code")
    said = f"the reply is an error: {words_of(reply)}"
    if str(code) in ("400", "403", "413", "422", "451", "content_filter", "context_length_exceeded"):
        raise Refused(said)
    raise BadReply(said)


def _finish_reason(choice: dict[str, Any]) -> str:
    reason = choice.get("finish_reason")
    name = reason.lower() if isinstance(reason, str) else None
    if name in _STOP:
        return "stop"
    if name in _LENGTH:
        return "length"
    if name in _FILTER:
        raise Refused(f"the server's content filter cut the answer (finish_reason {reason!r})")
    if name in _CALLS:
        raise Refused(f"the answer calls a tool (finish_reason {reason!r})")
    if name in _BROKEN_OFF:
        raise BadReply(f"the server broke the answer off (finish_reason {reason!r})")
    raise BadReply(
        f"the reply's finish_reason is {reason!r}, so that nothing says whether the answer is whole "
        "(expected 'stop' or 'length')",
        may_pass=False,
    )


def _content(message: dict[str, Any], reason: str) -> str | None:
    """Return the answer; None where there is none beside a thought."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_part(part) for part in content)
    if content is not None and not isinstance(content, str):
        raise BadReply(f"the reply's content is {_quoted(content)}, expected a text", may_pass=False)
    if content and content.strip():
        return content
    if isinstance(message.get("refusal"), str) and message["refusal"]:
        raise Refused(f"the model declined: {_quoted(message['refusal'])}")
    if message.get("tool_calls") or message.get("function_call"):
        raise Refused("the answer calls a tool and says nothing")
    has_thought = any(message.get(name) for name in THOUGHT_KEYS)
    return None if content is None or (has_thought and reason == "stop") else content


def _part(part: Any) -> str:
    """Return a part's text; a thought among them is no content."""
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "output_text") and isinstance(part.get("text"), str):
        return part["text"]
    if kind in ("thinking", "redacted_thinking", "reasoning"):
        return ""
    raise BadReply(f"a part of the reply's content is {_quoted(part)}, expected a text", may_pass=False)


def _is_echo(content: str, messages: Sequence[Message]) -> bool:
    asked = str(messages[-1].get("content") or "").strip() if messages else ""
    return len(asked) >= LEAST_ECHO and content.lstrip().startswith(asked)


def _count(reply: dict[str, Any], request: Request, content: str) -> tuple[int, tuple[str, ...]]:
    """Return the tokens of the answer, and what is odd about the server's counts."""
    usage = reply.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    num_tokens, num_read = usage.get("completion_tokens"), usage.get("prompt_tokens")
    if not isinstance(num_tokens, int) or isinstance(num_tokens, bool):
        raise BadReply(
            f"the reply's usage.completion_tokens is {num_tokens!r}, expected a number of tokens", may_pass=False
        )
    least = least_tokens(message.get("content") for message in request.messages)
    is_low = num_tokens < least_tokens([content])
    if not isinstance(num_read, int) or num_read >= least or num_read < LEAST_WINDOW:
        is_low |= isinstance(num_read, int) and num_read < least
        return num_tokens, (LOW_COUNT,) if is_low else ()
    raise Refused(
        f"the server cut the prompt: it read {num_read} tokens (usage.prompt_tokens) of at least {least}; "
        "give it a larger context or leave the prompt out"
    )


def least_tokens(texts: Iterable[Any]) -> int:
    """Give a number of tokens that texts surely have, whatever the tokenizer."""
    num_words = num_unspaced = 0
    for word in (word for text in texts for word in str(text or "").split()):
        unspaced = 0 if word.isascii() else sum(map(_is_unspaced, word))
        num_unspaced += unspaced
        num_words += not unspaced and any(map(str.isalnum, word))
    return int(num_words * TOKENS_PER_WORD + num_unspaced / UNSPACED_PER_TOKEN)


def _is_unspaced(character: str) -> bool:
    # From Thai on; Hangul is written with spaces.
    return character >= "\u0e01" and character.isalnum() and not "\uac00" <= character <= "\ud7a3"


def _quoted(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return repr(" ".join(text.split())[:MAX_WORDS])
