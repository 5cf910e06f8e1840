"""The report's curves: small drawings side by side, over steps, over K, over scores, over confidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from posttrain.report.figures import DASHES, FAINT, INK, MARKERS, SERIES, WIDTH, draw, grid, legend_above, reach

Series = Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True)
class Bin:
    """Pairs of which a reward model was about as sure: its mean confidence in [0.5, 1], and the share it got right.

    `low` and `high` are the 95 % interval of that share, `count` the number of pairs.
    """

    confidence: float
    accuracy: float
    low: float
    high: float
    count: int


def doubling_charts(name: str, title: str, charts: Sequence[tuple[str, Series]], labels: tuple[str, str]) -> Markup:
    """Draw lines through points whose first number doubles from one to the next, a panel per chart on one scale.

    Args:
        charts: heading and lines of each panel.
        labels: of both axes.
    """
    points = [point for _, series in charts for line in series.values() for point in line]
    ticks = sorted({x for x, _ in points})
    lowest, highest = min(y for _, y in points), max(y for _, y in points)
    air = 0.08 * (highest - lowest or 1.0)

    def paint(axes: Axes, chart: tuple[str, Series]) -> None:
        for index, (label, line) in enumerate(chart[1].items()):
            axes.plot(*zip(*line, strict=True), label=label, **_style(index), marker=MARKERS[index % 6])
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_ylim(lowest - air, highest + air)
        grid(axes, "y")

    return _side_by_side(name, title, charts, paint, labels, height=2.5)


def threshold_charts(name: str, title: str, charts: Sequence[tuple[str, Series]], x_label: str) -> Markup:
    """Draw what was measured beside its threshold, a panel per measure with a scale of its own."""

    def paint(axes: Axes, chart: tuple[str, Series]) -> None:
        for index, (label, line) in enumerate(chart[1].items()):
            axes.plot(*zip(*line, strict=True), label=label, **_style(index), marker=MARKERS[index])
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.margins(y=0.15)
        grid(axes, "y")

    return _side_by_side(name, title, charts, paint, (x_label, ""), height=1.8)


def histogram_charts(
    name: str, title: str, charts: Sequence[tuple[str, Sequence[float], Mapping[str, Sequence[float]]]], x_label: str
) -> Markup:
    """Draw shares in bins, a panel per chart on one scale; the first series filled, the others as outlines.

    Args:
        charts: heading, edges of the bins, and the shares of each series.
    """
    highest = max((value for _, _, series in charts for values in series.values() for value in values), default=1.0)

    def paint(axes: Axes, chart: tuple[str, Sequence[float], Mapping[str, Sequence[float]]]) -> None:
        _, edges, series = chart
        for index, (label, values) in enumerate(series.items()):
            if index == 0:
                axes.stairs(values, edges, fill=True, color=FAINT, label=label)
            else:
                axes.stairs(values, edges, label=label, linewidth=1.5, **_style(index - 1))
        axes.set_ylim(0, 1.08 * highest)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        grid(axes, "y")

    return _side_by_side(name, title, charts, paint, (x_label, "share"), height=2.2)


def _style(index: int) -> dict[str, Any]:
    return {"color": SERIES[index % 6], "linestyle": DASHES[index % 6]}


def _side_by_side(
    name: str,
    title: str,
    charts: Sequence[tuple],
    paint_one: Callable[[Axes, tuple], None],
    labels: tuple[str, str],
    height: float,
) -> Markup:
    """Draw a panel per chart, three in a row, with one legend above where all have the same series."""
    columns = min(3, len(charts))
    rows = -(-len(charts) // columns)

    def paint(figure: Figure) -> None:
        for place, chart in enumerate(charts, start=1):
            axes = figure.add_subplot(rows, columns, place)
            paint_one(axes, chart)
            axes.set_title(chart[0], loc="left")
            axes.tick_params(labelsize=7.5)
            if place > len(charts) - columns:
                axes.set_xlabel(labels[0], fontsize=8)
            if place % columns == 1 or columns == 1:
                axes.set_ylabel(labels[1], fontsize=8)
        legend_above(figure, max(len(axes.get_legend_handles_labels()[1]) for axes in figure.axes))

    return draw(name, (WIDTH if columns > 1 else 0.62 * WIDTH, height * rows + 0.25), title, paint)


def calibration_charts(name: str, title: str, charts: Sequence[tuple[str, Sequence[Bin]]]) -> Markup:
    """Draw how often each reward model was right against how sure it was, a panel per model, three in a row.

    On the dashed line both are equal. A mark's area grows with the pairs behind it; its bar is the 95 % interval.
    """
    columns = min(3, len(charts))
    rows = -(-len(charts) // columns)
    lowest = min(0.45, *(point.low for _, points in charts for point in points))

    def paint(figure: Figure) -> None:
        for place, (heading, points) in enumerate(charts, start=1):
            axes = figure.add_subplot(rows, columns, place)
            axes.plot([0.5, 1.0], [0.5, 1.0], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
            sure, right = [point.confidence for point in points], [point.accuracy for point in points]
            ends = reach(right, [point.low for point in points], [point.high for point in points])
            axes.errorbar(sure, right, yerr=ends, color=SERIES[0], linewidth=1.0, capsize=2)
            most = max(point.count for point in points)
            axes.scatter(sure, right, s=[6 + 60 * point.count / most for point in points], color=SERIES[0], zorder=3)
            axes.set_xlim(0.48, 1.02)
            axes.set_ylim(lowest - 0.02, 1.03)
            axes.set_title(heading, loc="left")
            axes.tick_params(labelsize=7.5)
            if place > len(charts) - columns:
                axes.set_xlabel("how sure it was", fontsize=8)
            if place % columns == 1 or columns == 1:
                axes.set_ylabel("how often it was right", fontsize=8)
            grid(axes, "both")

    return draw(name, (WIDTH if columns > 1 else 3.4, 2.5 * rows), title, paint)


def panels(name: str, title: str, charts: Sequence[tuple[str, Series]]) -> Markup:
    """Draw small charts over training steps, three in a row, each with a scale of its own and a line per training."""
    order = list(dict.fromkeys(label for _, series in charts for label in series))

    def paint(axes: Axes, chart: tuple[str, Series]) -> None:
        for label, points in chart[1].items():
            index = order.index(label)  # a training looks the same in every panel
            mark = MARKERS[index % 6] if len(points) < 12 else ""
            axes.plot(*zip(*points, strict=True), label=label, marker=mark, markersize=3.5, **_style(index))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        grid(axes, "y")

    return _side_by_side(name, title, charts, paint, ("step", ""), height=1.75)
