"""Read the items of a list that a model wrote."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

# "9. text", "9) text", "9: text", "9\. text", "### 9. text", "Task 9: text", "**9.** text", "**9. text**".
_NUMBER = re.compile(
    r"^(?P<indent>[ \t]*)(?:#{1,4}[ \t]+)?(?P<bold>\*\*|__)?(?:task[ \t]+)?(?P<number>\d{1,4})[ \t]?\\?[.):]"
    r"(?P<closed>\*\*|__)?(?:[ \t]+(?P<text>.*)|$)",
    re.IGNORECASE,
)
_BULLET = re.compile(r"^(?P<indent>[ \t]*)[-*•+–][ \t]+(?P<text>.*)$")


@dataclass
class _Level:
    """The numbering of one list: where its numbers stand, and the last one."""

    indent: int
    last: int


def parse_items(reply: str, finish_reason: str = "stop") -> list[str]:
    """Split a reply into the items of its list.

    Numbered ("9.", "9)", "**9.**", …) and bulleted lists are read; what stands before the first item is chatter and
    left out. A list within an item stays part of it: one that is indented, that begins again at 1 after a colon, or
    bullets under numbers. A reply without any list is one item.

    Args:
        finish_reason: "length" says that the reply was cut: its last item, which cannot be whole, is discarded.
    """
    lines = reply.replace("\r\n", "\n").split("\n")
    first = next((line for line in lines if _NUMBER.match(line) or _BULLET.match(line)), None)
    if first is None:
        items = [reply]
    elif _NUMBER.match(first):
        items = _numbered(lines)
    else:
        items = _bulleted(lines)
    if finish_reason == "length":
        items = items[:-1]
    return [item for item in map(_tidy, items) if item]


def _numbered(lines: list[str]) -> list[str]:
    items: list[list[str]] = []
    levels: list[_Level] = []
    for line in lines:
        match = _NUMBER.match(line)
        if match and _opens_item(match, levels, items[-1] if items else []):
            items.append([_text(match)])
        elif items:
            items[-1].append(line)
    return ["\n".join(item) for item in items]


def _opens_item(match: re.Match[str], levels: list[_Level], item: list[str]) -> bool:
    """Say whether a numbered line is an item of the outer list, keeping count of the lists that are open."""
    indent, number = len(match["indent"].expandtabs(4)), int(match["number"])
    if not levels:
        levels.append(_Level(indent, number))
        return True
    if indent > levels[0].indent + 1:
        return False
    inner = levels[-1]
    if len(levels) > 1 and number == inner.last + 1:
        inner.last = number
        return False
    outer = levels[0]
    begins_inner = number == 1 and any(line.strip() for line in item) and _last_text(item).endswith(":")
    if begins_inner or number < outer.last:
        del levels[1:]
        levels.append(_Level(indent, number))
        return False
    # The next number, a skipped one, or the same again: some models number every item alike.
    del levels[1:]
    outer.last = number
    return True


def _last_text(item: list[str]) -> str:
    return next(line.strip() for line in reversed(item) if line.strip())


def _text(match: re.Match[str]) -> str:
    text = match["text"] or ""
    if match["bold"] and not match["closed"]:
        # "**9. text** more": the mark that was opened before the number closes in the text.
        text = text.replace(match["bold"], "", 1)
    return text


def _bulleted(lines: list[str]) -> list[str]:
    indents = [len(match["indent"].expandtabs(4)) for match in map(_BULLET.match, lines) if match]
    items: list[list[str]] = []
    for line in lines:
        match = _BULLET.match(line)
        if match and len(match["indent"].expandtabs(4)) <= min(indents) + 1:
            items.append([match["text"]])
        elif items:
            items[-1].append(line)
    return ["\n".join(item) for item in items]


def _tidy(item: str) -> str:
    first, _, rest = item.partition("\n")
    return f"{first.strip()}\n{textwrap.dedent(rest)}".strip()
