"""From a matplotlib figure to an SVG that sits in a page: page colours, text as text, ids of its own, a title."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

WIDTH = 7.2  # inches, of a drawing as wide as the text
INK, FAINT, PAPER = "#1a1a1a", "#c9c9c9", "#fefefe"
# Okabe and Ito's palette, which colour-blind readers can tell apart; markers and dashes do it in grey.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#8a6d00")
PARTS = (*SERIES, "#6b6b6b", FAINT)
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
HATCHES = ("", "//", "\\\\", "xx", "--", "||", "++", "///")
# The page's style sheet gives these names their light and dark colours.
_PAGE_COLOURS = {INK: "var(--ink)", FAINT: "var(--line)", PAPER: "var(--paper)"} | {
    colour: f"var(--series-{index})" for index, colour in enumerate(SERIES, start=1)
}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.0,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
}


def draw(name: str, size: tuple[float, float], title: str, paint: Callable[[Figure], None]) -> Markup:
    """Draw a figure as inline SVG.

    Args:
        name: unique on the page; ids inside the drawing begin with it.
        size: inches, width and height.
        title: what the drawing shows, for screen readers.
        paint: draws on the empty figure.
    """
    # The salt and the missing date make the same data give the same bytes.
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _inline(buffer.getvalue(), name, title)


def _inline(svg: str, name: str, title: str) -> Markup:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    for colour, page_colour in _PAGE_COLOURS.items():
        svg = svg.replace(colour, page_colour)
    width = re.search(r'\bwidth="([\d.]+)pt"', svg)
    tag_end = svg.index(">")
    tag = re.sub(r'\s(?:width|height|version)="[^"]*"', "", svg[:tag_end])
    points = width.group(1) if width else "480"
    opened = f'{tag} role="img" aria-labelledby="{name}-title" style="width: {points}pt"><title id="{name}-title">'
    return Markup(opened + str(escape(title)) + "</title>" + svg[tag_end + 1 :])


def reach(
    values: Sequence[float], lows: Sequence[float | None], highs: Sequence[float | None]
) -> tuple[list[float], list[float]]:
    """Give how far intervals reach below and above their values; rounding may put an end on the value's other side."""
    below = [0.0 if low is None else max(0.0, value - low) for value, low in zip(values, lows, strict=True)]
    above = [0.0 if high is None else max(0.0, high - value) for value, high in zip(values, highs, strict=True)]
    return below, above


def grid(axes: Axes, axis: str) -> None:
    """Put faint lines behind the drawing, across the axis that carries the numbers."""
    axes.grid(axis=axis)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def legend_above(figure: Figure, count: int) -> None:
    """Name the series of all axes once, above them, where there are two or more."""
    labels = [axes.get_legend_handles_labels() for axes in figure.axes]
    handles = {name: handle for found in labels for handle, name in zip(*found, strict=True)}
    if count > 1:
        figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=4, fontsize=8)
