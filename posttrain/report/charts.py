"""The report's drawings, from plain numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from posttrain.report.figures import DASHES, FAINT, INK, MARKERS, SERIES, draw, grid, legend

Point = tuple[str, float, float | None, float | None]  # label, value, low, high
WIDTH = 7.2


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


def interval_chart(
    name: str, title: str, series: Mapping[str, Sequence[Point]], y_label: str, reference: float
) -> Markup:
    """Draw values with their intervals over labels; a dashed line marks the reference."""
    labels = list(dict.fromkeys(point[0] for points in series.values() for point in points))
    place = {label: index for index, label in enumerate(labels)}

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axhline(reference, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        for index, (label, points) in enumerate(series.items()):
            shift = 0.12 * (index - (len(series) - 1) / 2)
            at = [place[point[0]] + shift for point in points]
            values = [point[1] for point in points]
            below = [value - (value if low is None else low) for _, value, low, _ in points]
            above = [(value if high is None else high) - value for _, value, _, high in points]
            axes.errorbar(
                at, values, yerr=[below, above], label=label, color=SERIES[index % 6], marker=MARKERS[index % 6],
                linestyle=DASHES[index % 6] if len(series) > 1 else "none", capsize=3,
            )  # fmt: skip
        axes.set_xticks(range(len(labels)), labels)
        if len(labels) > 5:  # a slanted label ends at its tick
            axes.tick_params(axis="x", labelrotation=25)
            for text in axes.get_xticklabels():
                text.set(horizontalalignment="right", rotation_mode="anchor")
        axes.set_xlim(-0.5, len(labels) - 0.5)
        axes.set_ylabel(y_label)
        grid(axes, "y")
        legend(axes)

    return draw(name, (WIDTH, 2.8), title, paint)


def bar_chart(name: str, title: str, bars: Sequence[tuple[str, float, str]], x_label: str) -> Markup:
    """Draw horizontal bars, the first on top, each with its value in words at its end."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        drawn = axes.barh(range(len(bars)), [bar[1] for bar in bars], color=SERIES[0], height=0.66)
        axes.bar_label(drawn, labels=[bar[2] for bar in bars], padding=4, fontsize=8)
        axes.set_yticks(range(len(bars)), [bar[0] for bar in bars])
        axes.invert_yaxis()
        axes.margins(x=0.16, y=0.02)
        axes.set_xlim(left=0)
        axes.set_xlabel(x_label)
        axes.tick_params(axis="y", length=0)
        grid(axes, "x")

    return draw(name, (WIDTH, 0.6 + 0.23 * max(len(bars), 2)), title, paint)


def grouped_bar_chart(name: str, title: str, groups: Mapping[str, Mapping[str, float]], y_label: str) -> Markup:
    """Draw a cluster of bars per label, one bar per group, in the order of the groups."""
    labels = list(dict.fromkeys(label for values in groups.values() for label in values))
    hatches = ("", "///", "...", "xxx", "\\\\\\", "++")

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        width = 0.8 / len(groups)
        for index, (group, values) in enumerate(groups.items()):
            at = [place - 0.4 + width * (index + 0.5) for place in range(len(labels))]
            axes.bar(
                at, [values.get(label, 0.0) for label in labels], width * 0.92, label=group,
                color=SERIES[index % 6], hatch=hatches[index % 6], edgecolor=FAINT, linewidth=0.4,
            )  # fmt: skip
        axes.set_xticks(range(len(labels)), labels)
        axes.set_ylabel(y_label)
        grid(axes, "y")
        legend(axes)

    return draw(name, (WIDTH, 2.6), title, paint)


def doubling_chart(
    name: str, title: str, series: Mapping[str, Sequence[tuple[float, float]]], labels: tuple[str, str]
) -> Markup:
    """Draw lines through points whose first number doubles from one to the next; `labels` name the axes."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for index, (label, points) in enumerate(series.items()):
            axes.plot(
                [x for x, _ in points], [y for _, y in points], label=label,
                color=SERIES[index % 6], linestyle=DASHES[index % 6], marker=MARKERS[index % 6],
            )  # fmt: skip
        ticks = sorted({x for points in series.values() for x, _ in points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        grid(axes, "y")
        legend(axes)

    return draw(name, (WIDTH * 0.7, 2.6), title, paint)


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
            below = [point.accuracy - point.low for point in points]
            above = [point.high - point.accuracy for point in points]
            axes.errorbar(sure, right, yerr=[below, above], color=SERIES[0], linewidth=1.0, capsize=2)
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


def panels(name: str, title: str, charts: Sequence[tuple[str, Mapping[str, Sequence[tuple[float, float]]]]]) -> Markup:
    """Draw small charts side by side over training steps, three in a row."""
    columns = min(3, len(charts))
    rows = -(-len(charts) // columns)

    def paint(figure: Figure) -> None:
        for place, (heading, series) in enumerate(charts, start=1):
            axes = figure.add_subplot(rows, columns, place)
            for index, (label, points) in enumerate(series.items()):
                axes.plot(
                    [x for x, _ in points], [y for _, y in points], label=_short(label, series),
                    color=SERIES[index % 6], linestyle=DASHES[index % 6], marker="o" if len(points) == 1 else "",
                )  # fmt: skip
            axes.set_title(heading, loc="left")
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.tick_params(labelsize=7.5)
            if place > len(charts) - columns:
                axes.set_xlabel("step", fontsize=8)
            grid(axes, "y")
            legend(axes)

    return draw(name, (WIDTH if columns > 1 else 3.4, 1.9 * rows), title, paint)


def _short(label: str, among: Mapping[str, object]) -> str:
    """Name a series by what stands behind the slash, where that tells it from the others."""
    ends = [name.rpartition("/")[2] for name in among]
    end = label.rpartition("/")[2]
    return end if ends.count(end) == 1 else label
