"""Chat templates: rendering them, and reading off how a template ends an assistant's turn."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from posttrain.core.control_tokens import SPARE, control_tokens
from posttrain.core.errors import DataError, ModelError
from posttrain.core.formats import Message
from posttrain.core.tools import names_of_calls

# Stands before a template that reads the clock (`strftime_now`), and gives it the fixed date whatever the format.
_STOPPED_CLOCK = "{%- macro strftime_now(format) -%}{{ date_string }}{%- endmacro %}{{ '' }}"


@dataclass(frozen=True)
class TurnShape:
    """Describe what a template puts around an assistant's words.

    Attributes:
        preamble: what a template puts between the generation prompt and the words that is no white space (an empty
            block of thoughts), often none; it is not the assistant's own and is never learned.
        lead: white space between the generation prompt and the words, often none.
        trail: white space between the words and the end-of-turn token, often none.
        end: the text of the end-of-turn token.
        end_id: its id.
    """

    preamble: str
    lead: str
    trail: str
    end: str
    end_id: int

    def dress(self, words: str) -> str:
        """Put lead, trail and end-of-turn token around the words; white space that is there already is not doubled."""
        lead = "" if words.startswith(self.lead) else self.lead
        trail = "" if words.endswith(self.trail) else self.trail
        return lead + words + trail + self.end


_SHAPES: weakref.WeakKeyDictionary[Any, tuple[str, TurnShape]] = weakref.WeakKeyDictionary()


def template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """Give the chat template's text.

    Raises:
        ModelError: the tokenizer has none.
    """
    if not tokenizer.chat_template:
        raise ModelError("the tokenizer has no chat template; add a chat_template.jinja to the model folder")
    return tokenizer.get_chat_template()


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    date: str | None,
    add_generation_prompt: bool,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """Render a conversation as text.

    Args:
        date: printed by templates that print the date (`date_string`), also by those that read the clock themselves.
        tools: JSON schemas of functions that the assistant may call.

    Raises:
        DataError: the template refuses the messages, by its own rules on roles and their order.
    """
    template = template_of(tokenizer)
    fixed: dict[str, Any] = {} if date is None else {"date_string": date}
    if date is not None and "strftime_now" in template:
        template = _STOPPED_CLOCK + template
    try:
        text = tokenizer.apply_chat_template(
            list(messages),
            tools=None if tools is None else [dict(tool) for tool in tools],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **fixed,
        )
    except (TemplateError, TypeError) as error:
        roles = ", ".join(str(message.get("role")) for message in messages)
        raise DataError(f"the chat template refuses a conversation with the roles {roles}: {error}") from error
    assert isinstance(text, str)  # tokenize=False
    return text


def print_alike(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Tell whether two chat templates print a conversation alike; a date that they print does not count."""
    return _sample_prints(one) == _sample_prints(other)


def _sample_prints(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Print a conversation of two turns, with a system message where the template takes one."""
    turns: list[Message] = [
        {"role": "user", "content": "First question"},
        {"role": "assistant", "content": "First answer"},
        {"role": "user", "content": "Second question"},
    ]
    prints = []
    for messages in (turns, [{"role": "system", "content": "Rules"}, *turns]):
        try:
            prints.append(render(tokenizer, messages, date="1 Jan 2025", add_generation_prompt=True))
        except DataError:
            prints.append("refused")
    return prints


def turn_shape(tokenizer: PreTrainedTokenizerBase) -> TurnShape:
    """Read off the template how an assistant's turn begins and ends, by rendering one with a mark for its words.

    Raises:
        ModelError: no control token follows the words and the tokenizer has no end-of-sequence token.
    """
    template = template_of(tokenizer)
    known = _SHAPES.get(tokenizer)
    if known is None or known[0] != template:
        known = (template, _read_turn_shape(tokenizer))
        _SHAPES[tokenizer] = known
    return known[1]


def _read_turn_shape(tokenizer: PreTrainedTokenizerBase) -> TurnShape:
    question = {"role": "user", "content": "x"}
    start = render(tokenizer, [question], "", add_generation_prompt=True)
    whole = render(tokenizer, [question, {"role": "assistant", "content": SPARE}], "", add_generation_prompt=False)
    before, mark, after = whole.partition(SPARE)
    if not mark:
        raise ModelError("the chat template does not print the assistant's words; it cannot be used")
    lead = before.removeprefix(start) if before.startswith(start) else ""
    controls = control_tokens(tokenizer)
    found = controls.pattern.search(after)
    trail = after[: found.start()] if found else ""
    if found and (not trail or trail.isspace()):
        end = found.group()
    else:
        trail, end = "", tokenizer.eos_token
        if end is None:
            raise ModelError("nothing ends an assistant's turn: the tokenizer has no end-of-sequence token; name one")
    end_id = tokenizer.convert_tokens_to_ids(end)
    assert isinstance(end_id, int)  # one token in, one id out
    preamble = "" if lead.isspace() else lead
    return TurnShape(preamble, lead.removeprefix(preamble), trail, end, end_id)


def print_calls(tokenizer: PreTrainedTokenizerBase, message: Message) -> str:
    """Give an assistant message with tool calls as the template prints it, end-of-turn token included.

    It is read off the shortest conversation, since its own may print what came before in another way once it is there
    (Mistral's system message goes with the last user message).

    Raises:
        DataError: the template prints no tool calls, or refuses these.
    """
    shape = turn_shape(tokenizer)
    question = {"role": "user", "content": "x"}
    start = render(tokenizer, [question], "", add_generation_prompt=True)
    whole = render(tokenizer, [question, message], "", add_generation_prompt=False)
    printed = whole.removeprefix(start).removeprefix(shape.preamble)
    if not whole.startswith(start) or not all(name in printed for name in names_of_calls(message)):
        raise DataError("the chat template does not print tool calls; drop the row, or use a template that does")
    words, end, _ = printed.partition(shape.end)
    words = words if end else words.rstrip()
    ends_itself = not end and any(words.endswith(token) for token in control_tokens(tokenizer).edges)
    return words if ends_itself else words + shape.end  # some have a token of their own to end a call


def print_words(tokenizer: PreTrainedTokenizerBase, words: str) -> str:
    """Give an assistant's words as the template prints them, end-of-turn token included.

    Raises:
        DataError: the template opens an answer with control tokens behind its generation prompt (gpt-oss's channels).
            The model would have to write them, and a message's text cannot hold them.
    """
    shape = turn_shape(tokenizer)
    if control_tokens(tokenizer).pattern.search(shape.preamble):
        raise DataError(
            f"the chat template opens an answer with {shape.preamble!r} behind its generation prompt, control tokens "
            "that the model itself would have to write; such templates are not supported, use one that opens with text"
        )
    return shape.dress(words)


def refuse_unprinted_tools(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    date: str | None,
    tools: Sequence[Mapping[str, Any]] | None,
) -> None:
    """Refuse a conversation of which the template leaves out tools, calls or their results without a word.

    Raises:
        DataError: says what is left out.
    """
    if not tools and not any("tool_calls" in message or message.get("role") == "tool" for message in messages):
        return
    results = sum(message.get("role") == "tool" for message in messages)
    marked = [message | {"content": SPARE} if message.get("role") == "tool" else message for message in messages]
    text = render(tokenizer, marked, date, True, tools)
    missing = [
        *(["the results of tools"] if text.count(SPARE) < results else []),
        *(["tool calls"] if any(name not in text for message in messages for name in names_of_calls(message)) else []),
        *(["tools"] if tools and text == render(tokenizer, marked, date, True) else []),
    ]
    if missing:
        raise DataError(f"the chat template does not print {' or '.join(missing)}; drop the row, or use one that does")
