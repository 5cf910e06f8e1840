"""Read a judge's reply: the whole last line, or nothing.

Looking for a pattern anywhere in a reply finds what the judge quotes from a candidate; taking a default for what cannot
be read invents votes. So a verdict stands alone on the last line that holds any word, and all else is unreadable. So
are a reply that was cut or ends amid its thoughts, and one that ends in a list of verdicts, as the template does.
"""

from __future__ import annotations

import re
from typing import Literal

from posttrain.core.reasoning import without_thought

Verdict = Literal["A", "B", "TIE", "UNREADABLE"]

_OPEN = r"[\s*_`#>\"'(]*"
_CLOSE = r"[\s*_`\"').!]*"
# What stands behind "> " or in quotes is somebody else's verdict.
_OWN = r"[\s*_`#(]*"
_VERDICT = re.compile(
    rf"{_OWN}(?:final\s+)?verdict{_CLOSE}[:：]{_OPEN}(?:(?:assistant|answer)\s+|\\boxed\{{)?(?P<verdict>A|B|TIE)\}}?{_CLOSE}",
    re.IGNORECASE,
)
_BRACKETS = re.compile(rf"{_OWN}\[\[(?P<verdict>A|B|C|TIE)\]\]{_CLOSE}", re.IGNORECASE)
_RATING = re.compile(
    rf"{_OWN}(?:final\s+)?rating{_CLOSE}[:：]{_OPEN}(?P<value>-?\d+(?:\.\d+)?)(?:\s*(?:/|out\s+of)\s*(?P<of>\d+))?{_CLOSE}",
    re.IGNORECASE,
)


def parse_verdict(reply: str) -> Verdict:
    """Read `Verdict: A`, `B` or `TIE` (or MT-Bench's `[[A]]`, `[[B]]`, `[[C]]`) from the last line of a reply."""
    lines = last_lines(reply)
    verdict = _read_line(lines[-1])
    before = _read_line(lines[-2])
    return verdict if before in (verdict, "UNREADABLE") else "UNREADABLE"


def _read_line(line: str) -> Verdict:
    match = _VERDICT.fullmatch(line) or _BRACKETS.fullmatch(line)
    if match is None:
        return "UNREADABLE"
    found = match["verdict"].upper()
    return "A" if found == "A" else "B" if found == "B" else "TIE"


def parse_rating(reply: str, low: float, high: float) -> float | None:
    """Read `Rating: 4` or `Rating: 4/5` from the last line of a reply.

    None where there is none, it lies outside `low` to `high`, or it is out of something else than `high`; it is never
    moved into the range.
    """
    match = _RATING.fullmatch(last_lines(reply)[-1])
    if match is None or (match["of"] is not None and float(match["of"]) != high):
        return None
    value = float(match["value"])
    return value if low <= value <= high else None


def last_lines(reply: str) -> list[str]:
    """Return the last two lines that hold a letter or digit; a closing fence or rule below them does not count.

    Thoughts are left out: two empty ones where the reply breaks off in them.
    """
    lines = [
        line.strip() for line in without_thought(reply).splitlines() if any(character.isalnum() for character in line)
    ]
    return ["", "", *lines][-2:]
