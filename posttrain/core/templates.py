"""Chat templates: rendering them, and reading off how a template ends an assistant's turn."""

from __future__ import annotations

import re
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from posttrain.core.control_tokens import SPARE, control_tokens
from posttrain.core.errors import DataError, ModelError
from posttrain.core.formats import Message
from posttrain.core.row_keys import THOUGHT_KEYS, thought_of
from posttrain.core.tools import names_of_calls

# Stands before a template that reads the clock (`strftime_now`), and gives it the fixed date whatever the format.
_STOPPED_CLOCK = "{%- macro strftime_now(format) -%}{{ date_string }}{%- endmacro %}{{ '' }}"


# What a generation prompt may end with: a tag that opens something, a thought as a rule, and white space.
_OPENER = re.compile(r"(<[^<>\s/|]+>|<\|[^<>\s/|]+\|>|\[[A-Z_]+\])(\s*)$")
_THINKS = re.compile(r"think|thought|reason", re.IGNORECASE)
_WORDS = chr(ord(SPARE) - 1)  # stands for an answer's words beside a thought
_SOME_TOOL = ({"type": "function", "function": {"name": "x", "description": "x", "parameters": {"type": "object"}}},)


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
        opener: the tag with which the generation prompt ends, and the white space behind it; empty where there is none.
        thought_key: the key of a message whose thoughts the template prints; None where it prints none.
        marks: control tokens around thoughts, which the assistant itself writes.
        mark_ids: their ids.
        channels: an answer is opened by control tokens of headers, or a thought ends as a turn does (gpt-oss).
    """

    preamble: str
    lead: str
    trail: str
    end: str
    end_id: int
    opener: tuple[str, str]
    thought_key: str | None
    marks: frozenset[str]
    mark_ids: frozenset[int]
    channels: bool

    def dress(self, words: str) -> str:
        """Put lead, trail and end-of-turn token around the words; what is there already is not doubled."""
        tag, space = self.opener
        if tag and words.lstrip().startswith(tag):  # sampling begins behind the tag
            words = words.lstrip().removeprefix(tag).removeprefix(space)
        lead = "" if words.startswith(self.lead) else self.lead
        trail = "" if words.endswith(self.trail) else self.trail
        return lead + words + trail + self.end


_SHAPES: weakref.WeakKeyDictionary[Any, dict[str, TurnShape]] = weakref.WeakKeyDictionary()


def template_of(tokenizer: PreTrainedTokenizerBase, tools: Any = None) -> str:
    """Give the chat template's text; of several with names, the one that `apply_chat_template` takes.

    Args:
        tools: schemas of functions; with any, a template named `tool_use` is taken where there is one.

    Raises:
        ModelError: the tokenizer has none, or only templates with other names.
    """
    if not tokenizer.chat_template:
        raise ModelError("the tokenizer has no chat template; add a chat_template.jinja to the model folder")
    try:
        return tokenizer.get_chat_template(tools=tools or None)
    except ValueError as error:
        named = ", ".join(map(repr, tokenizer.chat_template))
        raise ModelError(f"the tokenizer has chat templates named {named} and none named 'default'; add one") from error


def has_tool_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether conversations with tools have a chat template of their own."""
    return isinstance(tokenizer.chat_template, dict) and "tool_use" in tokenizer.chat_template


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
    template = template_of(tokenizer, tools)
    fixed: dict[str, Any] = {} if date is None else {"date_string": date}
    if date is not None and "strftime_now" in template:
        template = _STOPPED_CLOCK + template
    try:
        text = tokenizer.apply_chat_template(
            list(messages),
            tools=[dict(tool) for tool in tools] if tools else None,
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


def turn_shape(tokenizer: PreTrainedTokenizerBase, tools: Any = None) -> TurnShape:
    """Read off the template how an assistant's turn begins and ends, by rendering one with a mark for its words.

    Args:
        tools: schemas of functions, for which a tokenizer may have a template of its own.

    Raises:
        ModelError: no control token follows the words and the tokenizer has no end-of-sequence token.
    """
    template = template_of(tokenizer, tools)
    known = _SHAPES.setdefault(tokenizer, {})
    if template not in known:
        known[template] = _read_turn_shape(tokenizer, template, tools)
    return known[template]


def turn_shapes(tokenizer: PreTrainedTokenizerBase) -> list[TurnShape]:
    """List the shapes of a turn, one for each template that conversations may be printed by."""
    given = (None, _SOME_TOOL) if has_tool_template(tokenizer) else (None,)
    return [turn_shape(tokenizer, tools) for tools in given]


def _read_turn_shape(tokenizer: PreTrainedTokenizerBase, template: str, tools: Any) -> TurnShape:
    question = {"role": "user", "content": "x"}
    start = render(tokenizer, [question], "", True, tools)
    whole = render(tokenizer, [question, {"role": "assistant", "content": SPARE}], "", False, tools)
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
    key, around = _find_thought(tokenizer, tools)
    headers = set(controls.pattern.findall(render(tokenizer, [question], "", False, tools))) | {end}
    named = {token for token in controls.edges if _THINKS.search(token) and token in template}
    marks = frozenset(named | (around - headers))
    opener, known = _OPENER.search(start), tokenizer.get_added_vocab()
    return TurnShape(
        preamble=preamble,
        lead=lead.removeprefix(preamble),
        trail=trail,
        end=end,
        end_id=end_id,
        opener=(opener.group(1), opener.group(2)) if opener else ("", ""),
        thought_key=key,
        marks=marks,
        mark_ids=frozenset(known[mark] for mark in marks),
        channels=end in around or not marks.issuperset(controls.pattern.findall(preamble)),
    )


def _find_thought(tokenizer: PreTrainedTokenizerBase, tools: Any) -> tuple[str | None, set[str]]:
    """Find the key whose thoughts the template prints, and the control tokens between it and its surroundings."""
    question = {"role": "user", "content": "x"}
    start = render(tokenizer, [question], "", True, tools)
    pattern = control_tokens(tokenizer).pattern
    for key in THOUGHT_KEYS:
        answer = {"role": "assistant", "content": _WORDS, key: SPARE}
        try:
            before, mark, after = render(tokenizer, [question, answer], "", False, tools).partition(SPARE)
        except DataError:
            continue
        if mark:
            between = after.partition(_WORDS)[0] if _WORDS in after else ""
            return key, {*pattern.findall(before.removeprefix(start))[-1:], *pattern.findall(between)[:1]}
    return None, set()


def print_message(tokenizer: PreTrainedTokenizerBase, message: Message, tools: Any = None) -> str:
    """Give an assistant message with a thought or tool calls as the template prints it, end-of-turn token included.

    It is read off the shortest conversation, since its own may print what came before in another way once it is there
    (Mistral's system message goes with the last user message).

    Raises:
        DataError: the template prints no tool calls or no thoughts, or refuses these.
    """
    shape = turn_shape(tokenizer, tools)
    thought = thought_of(message)
    if thought and shape.thought_key is None:
        return _print_thought(tokenizer, message, thought, tools)
    question = {"role": "user", "content": "x"}
    start = render(tokenizer, [question], "", True, tools)
    whole = render(tokenizer, [question, message], "", False, tools)
    printed = whole.removeprefix(start).removeprefix(shape.preamble)
    if not whole.startswith(start) or not all(name in printed for name in names_of_calls(message)):
        raise DataError("the chat template does not print tool calls; drop the row, or use a template that does")
    if thought.strip() not in printed or str(message.get("content") or "").strip() not in printed:
        raise DataError("the chat template does not print this answer's thought and words; write both into 'content'")
    words, end, _ = printed.partition(shape.end)
    words = words if end else words.rstrip()
    ends_itself = not end and any(words.endswith(token) for token in control_tokens(tokenizer).edges)
    return words if ends_itself else words + shape.end  # some have a token of their own to end a call


def _print_thought(tokenizer: PreTrainedTokenizerBase, message: Message, thought: str, tools: Any) -> str:
    """Write an answer with a thought that the generation prompt opens and the template cuts off (DeepSeek-R1)."""
    tag = turn_shape(tokenizer, tools).opener[0]
    close = f"{tag[0]}/{tag[1:]}" if tag else ""
    if not close or close not in template_of(tokenizer, tools) or names_of_calls(message):
        raise DataError(
            "the chat template does not print thoughts ('reasoning_content'), so this answer would be learned without "
            "its own; use a template that prints them, write them into 'content', or drop the key"
        )
    return print_words(tokenizer, f"{thought.strip()}\n{close}\n\n{message.get('content') or ''}", tools)


def print_words(tokenizer: PreTrainedTokenizerBase, words: str, tools: Any = None) -> str:
    """Give an assistant's words as the template prints them, end-of-turn token included.

    Raises:
        DataError: the template opens an answer with control tokens behind its generation prompt (gpt-oss's channels).
            The model would have to write them, and a message's text cannot hold them.
    """
    shape = turn_shape(tokenizer, tools)
    if not shape.marks.issuperset(control_tokens(tokenizer).pattern.findall(shape.preamble)):
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
