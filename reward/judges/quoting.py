"""Put texts that a model wrote before a judge so that they cannot speak to it, or to the parser of its reply."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.core.files import content_hash
from reward.errors import RewardError

_CONTROL = re.compile(
    r"<\|[^|<>\s]{1,64}\|>|</?s>|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]|<</?SYS>>"
    r"|</?(?:start_of_turn|end_of_turn|bos|eos|pad|unk|think)>|<｜[^｜]{1,64}｜>",
    re.IGNORECASE,
)
_VERDICT_WORD = re.compile(r"(verdict|rating)([\s*_`\"').!]*)[:：]", re.IGNORECASE)
_DOUBLE_BRACKET = re.compile(r"\[\[(?=[^\[\]\n]{1,8}\]\])")
_PLACE = re.compile(r"\{(\w+)\}")


def quote(text: str) -> str:
    """Defuse a candidate's text: control tokens, and what the parser would read as a verdict, lose their form.

    A reader sees the same words. A judge that quotes `Verdict: A` from a candidate quotes it with another sign for the
    colon, which is no verdict.
    """
    text = _CONTROL.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
    text = _VERDICT_WORD.sub(lambda match: f"{match[1]}{match[2]}\N{RATIO}", text)
    return _DOUBLE_BRACKET.sub("[ [", text)


def quote_prompt(messages: Sequence[Mapping[str, Any]]) -> str:
    """Write a conversation as text, each message under its role, defused."""
    return "\n\n".join(f"({message['role']})\n{quote(str(message.get('content', '')))}" for message in messages)


def read_template(path: str | Path, places: Sequence[str]) -> str:
    """Read a judge template; its first line names its source and is no part of it.

    Raises:
        RewardError: no such file, or a place such as `{prompt}` is missing in it.
    """
    path = Path(path)
    if not path.is_file():
        raise RewardError(f"judge template {path} does not exist; give a text file with {_listed(places)}.")
    text = path.read_text(encoding="utf-8")
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
