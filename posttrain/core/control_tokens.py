"""Control tokens inside people's words: found, made harmless, and kept as plain text.

A message that contains `<|im_end|>` would end its own turn if the rendered conversation went to the tokenizer as one
text. So a conversation is rendered with marks (private-use characters, which no text here contains) in place of such
strings; then the control tokens in the rendered text are the template's, and the stretches of text with marks in them
are tokenised on their own with every special token switched off.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from posttrain.core.errors import DataError
from posttrain.core.formats import Message, refuse_half_pairs
from posttrain.core.tools import plain_messages, plain_tools

# Plane 16's private-use area: its characters mean nothing to anyone, and templates do not trim them.
_FIRST_MARK, _LAST_MARK = 0x100000, 0x10FFFD
SPARE = chr(_LAST_MARK)
_MARK = re.compile(f"[{chr(_FIRST_MARK)}-{chr(_LAST_MARK)}]")
_BREAKS = ("\u200b", "\u2060", " ")


@dataclass(frozen=True)
class ControlTokens:
    """Hold the control tokens of a tokenizer: all special tokens but the unknown one, which commands nothing.

    Attributes:
        ids: their ids.
        pattern: matches the text of any of them, the longest first.
        edges: text → (eats white space before it, eats white space after it).
        hidden: some match normalised text, so that a text may become one without containing it.
    """

    ids: frozenset[int]
    pattern: re.Pattern[str]
    edges: dict[str, tuple[bool, bool]]
    hidden: bool


_KNOWN: weakref.WeakKeyDictionary[Any, tuple[int, ControlTokens]] = weakref.WeakKeyDictionary()


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> ControlTokens:
    """List the control tokens of a tokenizer."""
    known = _KNOWN.get(tokenizer)
    if known is None or known[0] != len(tokenizer):
        known = (len(tokenizer), _list_control_tokens(tokenizer))
        _KNOWN[tokenizer] = known
    return known[1]


def _list_control_tokens(tokenizer: PreTrainedTokenizerBase) -> ControlTokens:
    special = set(tokenizer.all_special_tokens)
    added = {
        token_id: token
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if (token.special or token.content in special) and token.content != tokenizer.unk_token
    }
    texts = sorted((token.content for token in added.values()), key=len, reverse=True)
    return ControlTokens(
        ids=frozenset(added),
        pattern=re.compile("|".join(map(re.escape, texts)) or r"(?!)"),
        edges={token.content: (token.lstrip, token.rstrip) for token in added.values()},
        hidden=any(token.normalized for token in added.values()),
    )


def find_control_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """List the control tokens that the text would become, in order, each time it occurs."""
    controls = control_tokens(tokenizer)
    found = controls.pattern.findall(text)
    if found or not controls.hidden:
        return found
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [str(tokenizer.convert_ids_to_tokens(token)) for token in ids if token in controls.ids]


def neutralize(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Break up the control tokens in a text that leaves our hands as text: an invisible space after the first letter.

    The text changes; inside this project it need not, since `encode_prompt` keeps it and is safe.
    """
    pattern = control_tokens(tokenizer).pattern
    if not pattern.search(text) and find_control_tokens(text, tokenizer):
        text = _normalized(tokenizer, text)  # where the control token that it becomes stands in plain letters
    for gap in _BREAKS:  # some normalisers drop invisible characters, so look again
        broken = pattern.sub(lambda match, gap=gap: match.group()[0] + gap + match.group()[1:], text)  # type: ignore[misc]
        if not find_control_tokens(broken, tokenizer):
            return broken
    while pattern.search(text):  # what is left may close up into a new one
        text = pattern.sub("", text)
    return text


@dataclass(frozen=True)
class Masked:
    """Hold a conversation in which marks stand for control tokens.

    Attributes:
        messages: the messages with marks.
        tools: the schemas of functions with marks; None where there are none.
        texts: mark → what it stands for; empty for harmless conversations.
        spare: a mark that stands for nothing.
    """

    tokenizer: PreTrainedTokenizerBase
    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    texts: dict[str, str] = field(default_factory=dict)
    spare: str = SPARE

    def tokenize(self, text: str) -> list[int]:
        """Turn rendered text into ids; what the marks stand for becomes plain text."""
        if not self.texts:
            return _ids(self.tokenizer, text)
        ids: list[int] = []
        for part, has_marks in _split_at_marks(text, control_tokens(self.tokenizer)):
            ids += self._tokenize_plainly(part, first=not ids) if has_marks else _ids(self.tokenizer, part)
        return ids

    def _tokenize_plainly(self, part: str, first: bool) -> list[int]:
        controls = control_tokens(self.tokenizer)
        text = _MARK.sub(lambda match: self.texts.get(match.group(), match.group()), part)
        ids = _plain_ids(self.tokenizer, text, first)
        if controls.ids.isdisjoint(ids):
            return ids
        # A word-level vocabulary knows its control tokens as words too, whatever is switched off.
        ids = _plain_ids(self.tokenizer, neutralize(text, self.tokenizer), first)
        if not controls.ids.isdisjoint(ids):
            raise DataError(f"this text cannot be kept apart from control tokens: {text[:80]!r}; drop the row")
        return ids


def mask_control_tokens(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Any = None,
    thinking_marks: frozenset[str] = frozenset(),
) -> Masked:
    """Put marks in place of control tokens in all texts of the messages and of the row's `tools`.

    Args:
        thinking_marks: control tokens that an assistant writes around its thoughts; they stay in what it said.

    Raises:
        DataError: a role contains a control token, a text contains a mark, or calls or schemas are none.
    """
    marks: dict[str, str] = {}
    controls = control_tokens(tokenizer)

    def hide(value: Any, own: frozenset[str] = frozenset()) -> Any:
        if isinstance(value, dict):
            said = thinking_marks if value.get("role") == "assistant" else frozenset()
            return {hide(key): hide(part, said if key == "content" else frozenset()) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [hide(part) for part in value]
        if not isinstance(value, str):
            return value
        if _MARK.search(value):
            raise DataError("a message contains private-use characters from U+100000 up; remove them")
        masked = controls.pattern.sub(lambda match: mark_of(match.group(), own), value)
        # Only tokenising shows a control token that hides behind the normaliser; then the whole text is set apart.
        hidden = masked == value and not own.issuperset(find_control_tokens(value, tokenizer))
        return mark_of(value) if hidden else masked

    def mark_of(text: str, own: frozenset[str] = frozenset()) -> str:
        return text if text in own else marks.setdefault(text, chr(_FIRST_MARK + len(marks)))

    for message in messages:
        if find_control_tokens(str(message.get("role")), tokenizer):
            raise DataError(f"the role {message.get('role')!r} contains a control token; use a plain word")
    masked, schemas = hide(plain_messages(messages)), hide(plain_tools(tools))
    return Masked(tokenizer, masked, schemas, {mark: text for text, mark in marks.items()})


def _split_at_marks(text: str, controls: ControlTokens) -> Iterator[tuple[str, bool]]:
    """Cut a text into stretches between control tokens that hold a mark (True) and all that lies between (False)."""
    done = 0
    borders = [*controls.pattern.finditer(text), None]
    begin = 0
    eats_after = False
    for border in borders:
        end = border.start() if border else len(text)
        stretch = text[begin:end]
        eats_before, eats_next = controls.edges[border.group()] if border else (False, False)
        if _MARK.search(stretch):
            if text[done:begin]:
                yield text[done:begin], False
            stretch = stretch.lstrip() if eats_after else stretch
            yield (stretch.rstrip() if eats_before else stretch), True
            done = end
        begin, eats_after = (border.end() if border else end), eats_next
    if text[done:]:
        yield text[done:], False


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, split_special_tokens: bool = False) -> list[int]:
    if not text:
        return []
    refuse_half_pairs(text, "content")  # such words the tokenizer itself refuses, and does not say why
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=split_special_tokens, verbose=False)
    return list(ids["input_ids"])


def _plain_ids(tokenizer: PreTrainedTokenizerBase, text: str, first: bool) -> list[int]:
    """Tokenise a stretch with special tokens switched off, as in the midst of a text unless it is `first`."""
    ids = _ids(tokenizer, text, split_special_tokens=True)
    if first or not _marks_the_beginning(tokenizer):
        return ids
    # Behind a line break, which merges with nothing in such vocabularies, the stretch is no beginning any more.
    anchor = _ids(tokenizer, "\n", split_special_tokens=True)
    anchored = _ids(tokenizer, "\n" + text, split_special_tokens=True)
    return anchored[len(anchor) :] if anchored[: len(anchor)] == anchor else ids


def _marks_the_beginning(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether a text's first word has another token than the same word behind a control token (sentencepiece)."""
    control = next(iter(control_tokens(tokenizer).edges), "")
    return bool(control) and _ids(tokenizer, control + "x")[1:] != _ids(tokenizer, "x")


def _normalized(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    return str(normalizer.normalize_str(text)) if normalizer is not None else text
