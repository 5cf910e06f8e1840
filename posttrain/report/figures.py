"""From a matplotlib figure to an SVG that sits in a page: page colours, text as text, ids of its own, a title."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, FAINT = "#1a1a1a", "#c9c9c9"
# Okabe and Ito's palette, which colour-blind readers can tell apart; markers and dashes do it in grey.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#8a6d00")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
# The page's style sheet gives these names their light and dark colours.
_PAGE_COLOURS = {INK: "var(--ink)", FAINT: "var(--line)"} | {
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


def grid(axes: Axes, axis: str) -> None:
    """Put faint lines behind the drawing, across the axis that carries the numbers."""
    axes.grid(axis=axis)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def legend(axes: Axes) -> None:
    """Name the series, where there are two or more."""
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend(fontsize=8)
