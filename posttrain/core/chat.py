"""Chat text to token ids and masks: the only place where messages become ids.

Sampling, scoring, training and evaluation all come through here, so that one text is one token sequence. The work is
done on text: the tokenizer's own chat template renders a conversation, and the places of the assistant's words follow
from rendering its beginnings, so that templates need no `{% generation %}` marks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from posttrain.core.atomic import PathLike
from posttrain.core.control_tokens import Masked, control_tokens, find_control_tokens, mask_control_tokens, neutralize
from posttrain.core.errors import DataError
from posttrain.core.files import content_hash
from posttrain.core.formats import Message
from posttrain.core.row_keys import LOSS_KEYS, THOUGHT_KEYS, is_learned, thought_of
from posttrain.core.templates import (
    print_message,
    print_words,
    refuse_unprinted_tools,
    render,
    template_of,
    turn_shape,
    turn_shapes,
)
from posttrain.core.tokenizers import load_tokenizer, refuse_too_long, refuse_unknown_ids
from posttrain.core.tools import plain_tools

__all__ = [
    "Encoded",
    "all_stop_ids",
    "decode_completion",
    "encode_example",
    "encode_messages",
    "encode_prompt",
    "encode_turns",
    "end_of_turn_id",
    "find_control_tokens",
    "load_tokenizer",
    "neutralize",
    "stop_ids",
    "template_hash",
    "truncate",
    "user_turn_prefix",
]


@dataclass(frozen=True)
class Encoded:
    """Hold one conversation as tokens.

    Attributes:
        ids: token ids, the template's BOS included, nothing after the last end-of-turn token.
        mask: 1 where a token is learned: an assistant message's words or tool calls and its end-of-turn token.
        format_mask: 1 where a token is a control token that the template put there: marks of headers, end of turn.
    """

    ids: list[int]
    mask: list[int]
    format_mask: list[int]


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], date: str | None = None, tools: Any = None
) -> list[int]:
    """Turn a prompt into ids, up to where the assistant begins to speak.

    The ids are those of `apply_chat_template(messages, add_generation_prompt=True)`. Only where a message contains the
    text of a control token they differ: there the text stays text and never becomes the control token.

    Args:
        date: what a template that prints today's date shall print instead; None lets it read the clock.
        tools: JSON schemas of functions that the assistant may call, or their JSON text.

    Raises:
        DataError: the template refuses these messages, or leaves out tools, calls or their results.
    """
    masked = _masked(tokenizer, messages, tools)
    refuse_unprinted_tools(tokenizer, masked.messages, date, masked.tools)
    return refuse_unknown_ids(tokenizer, masked.tokenize(render(tokenizer, masked.messages, date, True, masked.tools)))


def encode_example(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[Message],
    completion: Sequence[Message],
    date: str | None = None,
    allow_empty: bool = False,
    tools: Any = None,
) -> Encoded:
    """Turn a prompt and its completion into ids that begin with `encode_prompt(prompt)`, whatever would merge there.

    The completion's words stand as they are, followed by one end-of-turn token; what a template adds beyond that (an
    empty block of thoughts, a line break after the turn) is left out, since sampling does not produce it either. A
    completion with tool calls stands as the template prints it.

    Args:
        completion: one assistant message.
        allow_empty: encode an empty answer too, for scoring; nothing is to be learned from one.
        tools: as for `encode_prompt`.

    Raises:
        DataError: the completion is no assistant message or is empty; or the template refuses the prompt.
    """
    if len(completion) != 1 or completion[0].get("role") != "assistant":
        raise DataError(f"a completion is one assistant message, got {len(completion)}: {str(completion)[:80]}")
    return _encode(tokenizer, [*prompt, *completion], [len(prompt)], date, tools, allow_empty)


def encode_messages(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], date: str | None = None, tools: Any = None
) -> Encoded:
    """Turn a conversation into ids in which every assistant message is learned; what follows the last one is left out.

    One that its row marks as not to be learned (`weight` 0, `train` false) is context.

    A message that calls tools is learned as the template prints it; what tools give back (role `tool`) is context.

    Args:
        tools: as for `encode_prompt`.

    Raises:
        DataError: no assistant message, an empty one, or a template that rewrites earlier turns once later ones come
            (drops thoughts, moves the system message): then the earlier answers would be learned in a context that
            sampling never sees. `encode_turns` gives such a conversation answer by answer.
    """
    turns = [i for i, message in enumerate(messages) if is_learned(message)]
    if not turns:
        raise DataError("a conversation in which no assistant message is learned holds nothing to learn; drop the row")
    return _encode(tokenizer, messages, turns, date, tools, allow_empty=False)


def encode_turns(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], date: str | None = None, tools: Any = None
) -> list[Encoded]:
    """Turn a conversation into one example per assistant message that is learned, each after all that came before.

    Raises:
        DataError: an empty assistant message, or the template refuses the messages.
    """
    turns = [i for i, message in enumerate(messages) if is_learned(message)]
    return [encode_example(tokenizer, messages[:i], [messages[i]], date, tools=tools) for i in turns]


def truncate(tokenizer: PreTrainedTokenizerBase, encoded: Encoded, max_tokens: int) -> Encoded | None:
    """Cut to `max_tokens` from the right, or give None where nothing to learn would be left.

    A cut answer has no end-of-turn token any more, so nobody learns to stop in mid-sentence.

    Raises:
        DataError: what is left is longer than the positions of the model in the tokenizer's folder.
    """
    if not any(encoded.mask[:max_tokens]):
        return encoded if len(encoded.ids) <= max_tokens else None
    refuse_too_long(tokenizer, encoded.ids[:max_tokens])
    if len(encoded.ids) <= max_tokens:
        return encoded
    return Encoded(encoded.ids[:max_tokens], encoded.mask[:max_tokens], encoded.format_mask[:max_tokens])


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Give the token that ends an assistant's turn: what the template puts after the words, else end-of-sequence.

    Raises:
        ModelError: there is neither.
    """
    return turn_shape(tokenizer).end_id


def stop_ids(tokenizer: PreTrainedTokenizerBase, model_dir: PathLike | None = None) -> list[int]:
    """List the ids that end a completion: end of turn first, end of sequence, those of `generation_config.json`.

    A template's end of turn by which thoughts end too (channels) is left out where the folder lists others.
    """
    path = Path(model_dir or "", "generation_config.json")
    there = model_dir is not None and path.is_file()
    return all_stop_ids(tokenizer, json.loads(path.read_text("utf-8")).get("eos_token_id") if there else None)


def all_stop_ids(tokenizer: PreTrainedTokenizerBase, listed: int | list[int] | None) -> list[int]:
    """Do what `stop_ids` does, for a generation configuration's `eos_token_id`."""
    named = listed if isinstance(listed, list) else [] if listed is None else [listed]
    ids = [shape.end_id for shape in turn_shapes(tokenizer) if not (named and shape.channels)]
    if tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    return list(dict.fromkeys([*ids, *named]))


def decode_completion(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], stops: Sequence[int] | None = None
) -> str:
    """Turn sampled ids into the text of the answer: up to the first stop id, control tokens left out.

    Marks of thoughts stay; where thoughts are messages of their own (channels) all control tokens stay, since without
    them the thought would run into the answer.

    Args:
        stops: the ids that sampling stopped at; those of the tokenizer alone where they are not given.
    """
    ends = set(stop_ids(tokenizer) if stops is None else stops)
    end = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    said = list(ids[:end])
    shapes = turn_shapes(tokenizer)
    own = frozenset().union(*(shape.mark_ids for shape in shapes))
    if not own.isdisjoint(said):
        said = [token for token in said if token in own or token not in control_tokens(tokenizer).ids]
    whole = any(shape.channels for shape in shapes) or not own.isdisjoint(said)
    text = tokenizer.decode(said, skip_special_tokens=not whole, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)  # one sequence in, one text out
    return text


def user_turn_prefix(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message] = (), date: str | None = None
) -> list[int]:
    """Give the ids up to where the next user's words would begin; a model goes on with a prompt of its own (Magpie).

    Raises:
        DataError: the template refuses `messages` followed by a user's turn.
    """
    masked = _masked(tokenizer, messages)
    text = render(tokenizer, [*masked.messages, {"role": "user", "content": masked.spare}], date, False)
    place = text.find(masked.spare)
    if place < 0:
        raise DataError("the chat template does not print the user's words, so no user turn can be opened")
    return masked.tokenize(text[:place])


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Name the chat template with the special tokens that it may print, 16 hex digits."""
    templates = tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else template_of(tokenizer)
    return content_hash([templates, tokenizer.bos_token, tokenizer.eos_token])


# ---------------------------------------------------------------- conversations


def _masked(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Any = None) -> Masked:
    """Mask a conversation, thoughts under the key that the template prints, without keys that it shall not see."""
    shape = turn_shape(tokenizer, plain_tools(tools))
    hidden = (*LOSS_KEYS, *THOUGHT_KEYS)
    plain: list[Message] = []
    for message in messages:
        kept = {key: value for key, value in message.items() if key not in hidden}
        thought = thought_of(message)
        plain.append({**kept, shape.thought_key or THOUGHT_KEYS[0]: thought} if thought else kept)
    return mask_control_tokens(tokenizer, plain, tools, shape.marks)


def _encode(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    turns: Sequence[int],
    date: str | None,
    tools: Any,
    allow_empty: bool,
) -> Encoded:
    """Encode up to the last of `turns`, learning the messages whose indices these are."""
    for turn in turns:
        if not (allow_empty or messages[turn].get("tool_calls") or str(messages[turn].get("content") or "").strip()):
            raise DataError(f"message {turn + 1} of the conversation is an empty answer; drop the row")
    masked = _masked(tokenizer, messages[: turns[-1] + 1], tools)
    refuse_unprinted_tools(tokenizer, masked.messages[:-1], date, masked.tools)
    starts = [render(tokenizer, masked.messages[:turn], date, True, masked.tools) for turn in turns]
    ids: list[int] = []
    mask: list[int] = []
    said = ""
    for i, turn in enumerate(turns):
        following = starts[i + 1] if i + 1 < len(turns) else None
        if not starts[i].startswith(said):
            raise _rewritten(turn)
        _extend(masked, ids, mask, said, starts[i], learned=0)
        forms = _forms(tokenizer, masked.messages[turn], masked.tools)
        if following is not None:
            forms = [form for form in forms if following.startswith(starts[i] + form)]
        if not forms:
            raise _rewritten(turn)
        answer = forms[0]
        said = starts[i] + answer
        _extend(masked, ids, mask, starts[i], said, learned=1)
    controls = control_tokens(tokenizer).ids - turn_shape(tokenizer, masked.tools).mark_ids
    return Encoded(refuse_unknown_ids(tokenizer, ids), mask, [int(token in controls) for token in ids])


def _extend(masked: Masked, ids: list[int], mask: list[int], done: str, text: str, learned: int) -> None:
    """Append the tokens of what `text` adds to `done`, as they are in context where that keeps the ids so far."""
    together = masked.tokenize(text)
    kept = together[: len(ids)] == ids
    # Else a merge runs across the seam; the sampler, which starts at the seam, would not have made it.
    new = together[len(ids) :] if kept else masked.tokenize(text[len(done) :])
    ids += new
    mask += [learned] * len(new)


def _forms(tokenizer: PreTrainedTokenizerBase, message: Message, tools: Any) -> list[str]:
    """List the ways in which the template may print an answer, end-of-turn token included, the likeliest first."""
    if "tool_calls" in message or thought_of(message):
        return [print_message(tokenizer, message, tools)]
    content = str(message.get("content") or "")
    return [print_words(tokenizer, words, tools) for words in (content, content.strip())]  # many templates trim


def _rewritten(turn: int) -> DataError:
    return DataError(
        f"the chat template rewrites earlier turns when later ones follow (seen at message {turn + 1}), so one row "
        "cannot hold this conversation as sampling sees it; make one row per answer: prompt = all before it, "
        "completion = it"
    )
