"""What a report page is made of: sections of texts, tables and figures, before they become HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from markupsafe import Markup

MISSING = "–"


@dataclass(frozen=True)
class Text:
    """A paragraph; `tone` is plain, note for what is not there yet, or caution."""

    kind: ClassVar[str] = "text"
    text: str
    tone: str = "plain"


@dataclass(frozen=True)
class Cell:
    """A table cell with a style class, a shade from 0 to 1 where it has one, and a smaller second line."""

    text: str
    style: str = ""
    shade: float | None = None
    below: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a caption; the first column heads its rows. `folded` shows the caption alone until it is opened."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """An SVG drawing; the drawing carries its own title for screen readers."""

    kind: ClassVar[str] = "picture"
    svg: Markup
    caption: str


@dataclass(frozen=True)
class Browser:
    """Samples to filter and search."""

    kind: ClassVar[str] = "browser"
    samples: Sequence[Mapping[str, Any]]
    filters: Mapping[str, Sequence[str]]
    note: str


@dataclass(frozen=True)
class Card:
    """A number to see at a glance; `tone` is plain, good or bad."""

    label: str
    value: str
    note: str = ""
    tone: str = "plain"


@dataclass(frozen=True)
class Cards:
    """Cards side by side."""

    kind: ClassVar[str] = "cards"
    cards: Sequence[Card]


@dataclass(frozen=True)
class Verbatim:
    """A text as it stands in its file, folded under its caption."""

    kind: ClassVar[str] = "verbatim"
    caption: str
    text: str


@dataclass(frozen=True)
class Fold:
    """Blocks that are shown when their caption is opened."""

    kind: ClassVar[str] = "fold"
    caption: str
    blocks: Sequence[Block]


Block = Text | Table | Picture | Browser | Cards | Verbatim | Fold


@dataclass(frozen=True)
class Section:
    """A headed part of the page; `key` is its place in the page's address."""

    key: str
    title: str
    blocks: Sequence[Block]


def not_yet(what: str) -> Text:
    """Say that a run has not got to something, or that its recipe leaves it out."""
    return Text(f"{what}: not there yet, or left out by the recipe.", tone="note")


def is_number(value: object) -> bool:
    """Tell whether a value is a finite number that can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: object, digits: int = 3) -> str:
    """Write a number for a reader: whole numbers with thin thousands, others to `digits` places."""
    if value is None:
        return MISSING
    if not is_number(value):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    return f"{value:.{digits}f}".replace("-", "\u2212")


def share(value: object) -> str:
    """Write a fraction as a whole percentage."""
    return f"{100 * float(value):.0f} %" if is_number(value) else MISSING  # type: ignore[arg-type]


def listed(names: Sequence[str]) -> str:
    """Join names as a sentence does."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def rate(measured: Mapping[str, Any] | None) -> str:
    """Write a win rate with its interval."""
    if not measured or not is_number(measured.get("win_rate")):
        return MISSING
    return f"{number(float(measured['win_rate']))} {interval(measured)}".rstrip()


def interval(measured: Mapping[str, Any], digits: int = 3) -> str:
    """Write the interval of a measurement; nothing where it has none."""
    low, high = measured.get("low"), measured.get("high")
    if not is_number(low) or not is_number(high):
        return ""
    return f"[{number(float(low), digits)}, {number(float(high), digits)}]"  # type: ignore[arg-type]


def duration(seconds: object) -> str:
    """Write seconds as a person says them."""
    if not is_number(seconds):
        return MISSING
    whole = float(seconds)  # type: ignore[arg-type]
    if whole < 60:
        return f"{whole:.1f} s"
    minutes, rest = divmod(round(whole), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def plain_text(value: object) -> str:
    """Give text that any file can hold and any page can show: no lone surrogates, no control characters."""
    text = str(value).encode("utf-8", "replace").decode("utf-8")
    return "".join(char if char in "\n\t" or ord(char) >= 32 else "\ufffd" for char in text)
