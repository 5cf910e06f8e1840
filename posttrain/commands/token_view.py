"""Tokens with their mask for a person's eyes: in colour on a terminal, or with marks in plain text."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal, TextIO

View = Literal["color", "marks", "json"]
Line = Mapping[str, Any]

RESET = "\x1b[0m"
# Two shades by turns show where one token ends and the next begins.
COLOURS = {
    "learned": ("\x1b[30;42m", "\x1b[30;102m"),
    "nll": ("\x1b[30;43m", "\x1b[30;103m"),
    "format": ("\x1b[36m", "\x1b[36m"),
    "context": ("\x1b[2m", "\x1b[2m"),
}
MARKS = {"learned": ("«", "»"), "nll": ("‹", "›"), "format": ("⟦", "⟧"), "context": ("", "")}
BORDER = "│"
MEANINGS = {
    "sft": {"learned": "learned (cross-entropy)"},
    "distill": {"learned": "learned"},
    "dpo": {"learned": "compared, chosen with rejected", "nll": "learned by the NLL term alone"},
    "reward_model": {"learned": "the answer; its score is read at the last token"},
}
VERBS = {"sft": "learned", "distill": "learned", "dpo": "compared", "reward_model": "of the answer"}
COMMON = {"format": "the template's control tokens, not learned", "context": "context"}
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def view_for(stream: TextIO, asked: str = "auto") -> View:
    """Choose the view: JSON lines for a pipe or file, marks for a terminal without colour.

    Args:
        asked: color, marks or json as they are; auto looks at the stream, `NO_COLOR` (no-color.org) and `TERM`.
    """
    if asked in ("color", "marks", "json"):
        return asked  # type: ignore[return-value]
    if not stream.isatty():
        return "json"
    return "marks" if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else "color"


def render_tokens(kind: str, lines: Sequence[Line], view: Literal["color", "marks"]) -> Iterator[str]:
    """Yield the text of a view: a legend, then every example under a heading with its counts, then the totals.

    Args:
        kind: sft, dpo, reward_model or distill.
        lines: from `posttrain.train.tokens.show_tokens`.
    """
    meanings = MEANINGS[kind] | COMMON
    there = {name for line in lines for name in line["kinds"]}
    yield "   ".join(_run(name, [meaning], view) for name, meaning in meanings.items() if name in there)
    for row, same in groupby(lines, key=lambda line: line["row"]):
        told: list[int] = []
        for line in same:
            yield ""
            yield _heading(kind, row, line, view)
            if line["ids"]:
                yield _body(line, _shared(told, line), view)
                told = line["ids"]
    yield ""
    yield f"{len(lines)} example{'' if len(lines) == 1 else 's'}: {_counts(kind, lines)}"


def _heading(kind: str, row: int, line: Line, view: str) -> str:
    """Name an example; rows count from 1, as they do in messages on rows."""
    parts = [f"row {row + 1}", line.get("side", "")]
    parts.append(f"dropped: {line['drop_reason']}" if "drop_reason" in line else _counts(kind, [line]))
    if line.get("num_cut"):
        parts.append(f"{line['num_cut']} more cut off")
    text = " · ".join(part for part in parts if part)
    return f"\x1b[1m{text}{RESET}" if view == "color" else text


def _counts(kind: str, lines: Sequence[Line]) -> str:
    tokens, learned = sum(len(line["ids"]) for line in lines), sum(sum(line["mask"]) for line in lines)
    text = f"{tokens:,} tokens, {learned:,} {VERBS[kind]}"
    if tokens:
        text += f" ({learned / tokens:.0%})"
    nll = sum(line["kinds"].count("nll") for line in lines)
    return text + (f", {nll:,} by NLL alone" if nll else "")


def _shared(told: Sequence[int], line: Line) -> int:
    """Count the tokens that this side of a pair shares with the side before and that are not learned."""
    place = 0
    while place < min(len(told), len(line["ids"])) and told[place] == line["ids"][place]:
        if line["kinds"][place] in ("learned", "nll"):
            break
        place += 1
    return place


def _body(line: Line, shared: int, view: str) -> str:
    pieces = list(zip(line["kinds"], line["text"], strict=True))[shared:]
    runs = [_run(name, [text for _, text in run if text], view) for name, run in groupby(pieces, key=lambda p: p[0])]
    return (f"(the same {shared} tokens)\n" if shared else "") + "".join(runs)


def _run(name: str, texts: Sequence[str], view: str) -> str:
    """Put neighbouring tokens of one kind together."""
    shown = [_visible(text) for text in texts]
    if view == "marks":
        opening, closing = MARKS[name]
        return opening + (BORDER if opening else "").join(shown) + closing
    parts = []
    for place, text in enumerate(shown):
        colour = COLOURS[name][place % 2]
        # A background that runs over a line break would fill the rest of the line.
        parts.append(colour + text.replace("\n", f"{RESET}\n{colour}") + RESET)
    return "".join(parts)


def _visible(text: str) -> str:
    """Show line breaks and tabs, and let no text command the terminal."""
    text = text.replace("\n", "↵\n").replace("\t", "→\t")
    return _CONTROLS.sub(lambda match: f"\\x{ord(match.group()):02x}", text)
