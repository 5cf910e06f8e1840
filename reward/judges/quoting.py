"""Put texts that a model wrote before a judge so that they cannot speak to it, or to the parser of its reply."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.core.control_forms import break_forms, fold, insert
from posttrain.core.files import content_hash
from posttrain.core.tools import plain_tools
from reward.errors import RewardError

# Invisible characters whose only use in an answer is to hide or turn round text: zero-width spaces, soft hyphens,
# directions, tags. Joiners, which Persian, Hindi and emoji need, stay; folding looks through them.
_HIDING = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]")
# Halves of surrogate pairs and the last private-use plane: no tokenizer of ours takes such text (core.control_tokens).
_UNUSABLE = re.compile("[\ud800-\udfff\U00100000-\U0010ffff]")
# What the parser takes for a verdict or a rating has one of these forms (reward/judges/parse.py), once folded.
_SPEAKING = re.compile(r"(?:verdict|rating)(?=[\s*_`\"').!]*:)|\[\[(?=\s*(?:a|b|c|tie)\s*\]\])")
_FENCE = re.compile(r"^(?=[ \t]*-{3,}[ \t]*(?:end of[ \t]+)?(?:answer|conversation)\b)", re.MULTILINE)
_PLACE = re.compile(r"\{(\w+)\}")
QUOTED = " (quoted) "


def quote(text: str) -> str:
    """Defuse a candidate's text: control tokens, and what the parser would read as a verdict, lose their form.

    A reader sees the same words. `Verdict: A` becomes `Verdict (quoted) : A`, so that a judge that quotes it, in
    whatever letters and signs, does not give a verdict; what looks like a line of our templates gets a `>` before it.
    """
    text = break_forms(_HIDING.sub("", _UNUSABLE.sub("\N{REPLACEMENT CHARACTER}", text)))
    folded = fold(text)
    pieces = {folded.places[match.end() - 1] + 1: QUOTED for match in _SPEAKING.finditer(folded.text)}
    text = insert(text, pieces)
    return _FENCE.sub("> ", text)


def quote_prompt(messages: Sequence[Mapping[str, Any]], tools: Any = None) -> str:
    """Write a conversation as text, each message under its role, defused.

    Args:
        tools: the row's `tools`, the functions that the assistant could call; they come first.
    """
    schemas = plain_tools(tools)
    parts = [] if schemas is None else [("tools", json.dumps(schemas, ensure_ascii=False))]
    parts += [(message["role"], str(message.get("content") or "")) for message in messages]
    return "\n\n".join(f"({name})\n{quote(text)}" for name, text in parts)


def read_template(path: str | Path, places: Sequence[str]) -> str:
    """Read a judge template; its first line names its source and is no part of it.

    Raises:
        RewardError: no such file, it is not UTF-8, or a place such as `{prompt}` is missing in it.
    """
    path = Path(path)
    if not path.is_file():
        raise RewardError(f"judge template {path} does not exist; give a text file with {_listed(places)}.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RewardError(f"judge template {path} is not UTF-8 ({error}); save it as UTF-8.") from error
    first, _, rest = text.partition("\n")
    body = rest.lstrip("\n") if first.startswith("#") else text
    missing = [place for place in places if f"{{{place}}}" not in body]
    if missing:
        raise RewardError(f"judge template {path} lacks {_listed(missing)}; the judge would not see it.")
    return body


def fill(template: str, values: Mapping[str, str]) -> str:
    """Fill `{places}` in one pass, so that a text that holds `{completion_b}` is not filled again.

    `{mark}` becomes a word made of the texts themselves: a candidate would have to contain the hash of a text that
    contains it, so none can forge the line that closes its quotation. Other braces stay as they are.
    """
    known = {**values, "mark": content_hash(dict(values), length=8)}
    return _PLACE.sub(lambda match: known.get(match[1], match[0]), template)


def _listed(places: Sequence[str]) -> str:
    return ", ".join(f"{{{place}}}" for place in places)
