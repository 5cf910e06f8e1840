"""Read the items of a list that a model wrote."""

from __future__ import annotations

import itertools
import json
import re
import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_MARKS = r"(?P<indent>[ \t]*)(?:#{1,4}[ \t]+)?(?P<bold>\*\*|__)?"
_DIGITS = r"(?P<number>\d{1,4}|[一二三四五六七八九十]{1,3})"  # \d takes the digits of every script
# Not in "9.5 metres", "9:30 in the morning", "9:x" of a table or code.
_POINT = r"(?:[ \t]?\\?(?:[.)](?!\d)|:(?=[ \t*_]|$))(?:-[ \t])?|[：、．）。।،])"
_REST = r"(?P<closed>\*\*|__)?[ \t]*(?P<text>.*)$"
# Ways of numbering; one list keeps to one.
_STYLES = {
    # "9. text", "9.text", "9) text", "9: text", "9\. text", "### 9. text", "**9.** text", "9、text", "9．text"
    "point": re.compile(rf"^{_MARKS}{_DIGITS}{_POINT}{_REST}"),
    # "(9) text", "[9] text", "（9）text", "【9】text"
    "bracket": re.compile(rf"^{_MARKS}[(\[（【]{_DIGITS}[)\]）】][.:：]?{_REST}"),
    # "①text", "❶ text"
    "circle": re.compile(rf"^{_MARKS}(?P<number>[①-⑳❶-❿➀-➓])[.、]?{_REST}"),
    # "Task 9: text", "Request 9. text", "问题9：text"
    "name": re.compile(rf"^{_MARKS}(?P<name>[^\W\d_]{{1,20}})[ \t]*{_DIGITS}{_POINT}{_REST}"),
    # "第9題：text", "第九、text"
    "ordinal": re.compile(rf"^{_MARKS}第[ \t]?{_DIGITS}[ \t]?[^\W\d]{{0,2}}[：:、，,．.]{_REST}"),
    # "9️⃣ text"
    "keycap": re.compile(rf"^{_MARKS}(?P<number>(?:\d\ufe0f?\u20e3){{1,3}})[.)]?{_REST}"),
    # "#9 text", "No. 9 text", "N° 9 text"
    "hash": re.compile(rf"^{_MARKS}(?:#|№|[Nn](?:o\.|[°º]))[ \t]?{_DIGITS}[.):]?(?=[ \t*_]){_REST}"),
    # "9º text"
    "degree": re.compile(rf"^{_MARKS}{_DIGITS}[ºª°][.)]?(?=[ \t]){_REST}"),
    # "9 - text", "9 – text"
    "dash": re.compile(rf"^{_MARKS}{_DIGITS}(?P<closed>\*\*|__)?[ \t]*[-–—][ \t]+(?P<text>.*)$"),
}
_NEEDS_A_RUN = ("name", "hash", "degree", "dash")  # other lines may begin so; a list goes on with the next number
_TASKS = (
    "task",
    "request",
    "prompt",
    "instruction",
    "aufgabe",
    "tâche",
    "tarea",
    "任务",
    "請求",
    "请求",
    "指令",
    "タスク",
    "과제",
)
_UNFENCED = re.compile(r"\A\s*```\w*\n(.*?)\n```\s*\Z", re.DOTALL)
_BULLET = re.compile(r"^(?P<indent>[ \t]*)[-*•+–—・·●‣◦▪►][ \t]+(?P<text>.*)$")
_FENCE = re.compile(r"^[ \t]*(?:[^\s`~]{1,6}[ \t]+)?(?:`{3,}|~{3,})")  # an item may begin with one
_ENUMERATED = re.compile(r"[ \t]*(?:[(\[（]?\w{1,4}[.)\]）、:：]|<li>|\|)")
_INLINE = re.compile(r"(?<![^\s。；;.!?！？])[(\[（]?(?P<number>\d{1,3})(?:[.):](?=\s)|[、）．：])")
_INVISIBLE = re.compile(r"^[\ufeff\u200b-\u200f\u202a-\u202e\u2060\u2066-\u2069]+", re.MULTILINE)
_CHINESE = {digit: value for value, digit in enumerate("一二三四五六七八九十", start=1)}
Matches = list[re.Match[str] | None]


@dataclass
class _Level:
    """The numbering of one list: where its numbers stand, and the last one."""

    indent: int
    last: int


def parse_items(reply: str, finish_reason: str = "stop") -> list[str]:
    """Split a reply into the items of its list.

    Numbered lists ("9.", "9)", "(9)", "**9.**", "Task 9:", "9、", "九、", "第9、", "①", "#9", …; digits of any script),
    bulleted ones and JSON arrays of texts are read; what stands before the first item is chatter and left out. A list
    within an item stays part of it: one that is indented, in a code fence, numbered in another way, that begins again
    at 1 after a colon, or bullets under numbers. A reply without any list is one item.

    Args:
        finish_reason: "length" says that the reply was cut: its last item, which cannot be whole, is discarded.
    """
    items = _split(reply)
    if items is None:
        items = [reply]
    if finish_reason == "length":
        items = items[:-1]
    return [item for item in map(_tidy, items) if item]


def is_unread_list(reply: str, several: bool) -> bool:
    """Tell whether a reply is an enumeration that `parse_items` cannot split.

    It has no list that is read, but begins with two lines that a letter or another mark begins ("a)", "iv.", "|"),
    holds several `<li>`, or is JSON. Where `several` requests were asked for, also: one item, in which numbers go on
    within a line ("1. … 2. …"), or several lines without a list, of which nothing tells where one request ends.
    """
    items = _split(reply)
    lines = [line for line in _lines(reply) if line.strip()]
    if several and (items is None or len(items) == 1) and any(map(_counts_on, lines)):
        return True
    if items is not None:
        return False
    enumerated = len(lines) > 1 and (several or all(_ENUMERATED.match(line) for line in lines[:2]))
    return enumerated or reply.count("<li>") > 1 or _is_json(reply)


def _split(reply: str) -> list[str] | None:
    items = _json_items(reply)
    if items is not None:
        return items
    lines = _lines(reply)
    fenced = _fenced(lines)
    numbers, bullets = _numbering(lines, fenced), _matches(lines, fenced, _BULLET)
    first = next((match for pair in zip(numbers, bullets, strict=True) for match in pair if match), None)
    if first is None:
        return None
    return _numbered(lines, numbers) if first in numbers else _bulleted(lines, bullets)


def _counts_on(line: str) -> bool:
    """Say whether the first two numbers of a line, each with a mark, follow each other."""
    numbers = [int(match["number"]) for match in _INLINE.finditer(line)][:2]
    return len(numbers) == 2 and numbers[1] == numbers[0] + 1


def _lines(reply: str) -> list[str]:
    """Split at line ends of every system; an ideographic space indents by two columns, marks of direction go."""
    text = _INVISIBLE.sub("", reply.replace("\r\n", "\n").replace("\r", "\n"))
    return re.sub(r"^[ \t\u3000\xa0]+", lambda found: _columns(found[0]), text, flags=re.MULTILINE).split("\n")


def _columns(indent: str) -> str:
    return indent.replace("\u3000", "  ").replace("\xa0", " ")


def _is_json(reply: str) -> bool:
    try:
        return isinstance(json.loads(_UNFENCED.sub(r"\1", reply)), list | dict)
    except ValueError:
        return False


def _json_items(reply: str) -> list[str] | None:
    text = _UNFENCED.sub(r"\1", reply).strip()
    if not text.startswith("["):
        return None
    try:
        items = json.loads(text)
    except ValueError:
        return None
    return items if items and all(isinstance(item, str) for item in items) else None


def _fenced(lines: Sequence[str]) -> list[bool]:
    """Say of every line whether it stands in a code fence; one that nothing closes is none."""
    fenced = [False] * len(lines)
    opened: int | None = None
    for place, line in enumerate(lines):
        if not _FENCE.match(line):
            continue
        if opened is None:
            opened = place
        else:
            fenced[opened + 1 : place + 1] = [True] * (place - opened)
            opened = None
    return fenced


def _matches(lines: Sequence[str], fenced: Sequence[bool], pattern: re.Pattern[str]) -> Matches:
    return [None if inside else pattern.match(line) for line, inside in zip(lines, fenced, strict=True)]


def _numbering(lines: Sequence[str], fenced: Sequence[bool]) -> Matches:
    """Match the lines that are numbered as the list is: the first list whose numbers go on, else the first number.

    Numberings that other text has too ("Speaker 1:", "3 - 1") are the list's only where they begin the reply, behind
    chatter only where they are called tasks: amid a request they are its own.
    """
    ways: list[tuple[bool, int, Matches]] = []
    begins = next((place for place, line in enumerate(lines) if line.strip()), 0)
    for style, pattern in _STYLES.items():
        found = _matches(lines, fenced, pattern)
        for name in dict.fromkeys(_name(match) for match in found if match):
            named = [match if match and _name(match) == name else None for match in found]
            numbers = [_number(match) for match in named if match]
            goes_on = any(later - number in (0, 1) for number, later in itertools.pairwise(numbers))
            first = next(place for place, match in enumerate(named) if match)
            if style not in _NEEDS_A_RUN or (goes_on and (first == begins or name in _TASKS)):
                ways.append((not goes_on, first, named))
    return min(ways, key=lambda way: way[:2])[2] if ways else [None] * len(lines)


def _name(match: re.Match[str]) -> str:
    return (match.groupdict().get("name") or "").casefold()


def _number(match: re.Match[str]) -> int:
    text = re.sub("[\ufe0f\u20e3]", "", match["number"])
    if text[0] in _CHINESE:  # 九, 十, 十一, 二十, 二十一
        tens, ten, ones = text.rpartition("十")
        return (_CHINESE.get(tens, 1) * 10 if ten else 0) + _CHINESE.get(ones, 0)
    return int(text) if text.isdecimal() else int(unicodedata.numeric(text))


def _numbered(lines: Sequence[str], matches: Matches) -> list[str]:
    items: list[list[str]] = []
    levels: list[_Level] = []
    for line, match in zip(lines, matches, strict=True):
        if match and _opens_item(match, levels, items[-1] if items else []):
            items.append([_text(match)])
        elif items:
            items[-1].append(line)
    return ["\n".join(item) for item in items]


def _opens_item(match: re.Match[str], levels: list[_Level], item: list[str]) -> bool:
    """Say whether a numbered line is an item of the outer list, keeping count of the lists that are open."""
    indent, number = len(match["indent"].expandtabs(4)), _number(match)
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
    begins_inner = number == 1 and any(line.strip() for line in item) and _last_text(item).endswith((":", "："))
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
    text = match["text"]
    if match["bold"] and not match["closed"]:
        # "**9. text** more": the mark that was opened before the number closes in the text.
        text = text.replace(match["bold"], "", 1)
    return text


def _bulleted(lines: Sequence[str], matches: Matches) -> list[str]:
    indents = [len(match["indent"].expandtabs(4)) for match in matches if match]
    items: list[list[str]] = []
    for line, match in zip(lines, matches, strict=True):
        if match and len(match["indent"].expandtabs(4)) <= min(indents) + 1:
            items.append([match["text"]])
        elif items:
            items[-1].append(line)
    return ["\n".join(item) for item in items]


def _tidy(item: str) -> str:
    first, _, rest = item.partition("\n")
    return f"{first.strip()}\n{textwrap.dedent(rest)}".strip()
