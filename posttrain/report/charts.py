"""The report's drawings, from plain numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup
from matplotlib.figure import Figure

from posttrain.report.figures import (
    DASHES,
    HATCHES,
    INK,
    MARKERS,
    PAPER,
    PARTS,
    SERIES,
    WIDTH,
    draw,
    grid,
    legend_above,
    reach,
)

Point = tuple[str, float, float | None, float | None]  # label, value, low, high


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
            _, values, lows, highs = zip(*points, strict=True)
            axes.errorbar(
                at, values, yerr=reach(values, lows, highs), label=label, color=SERIES[index % 6],
                marker=MARKERS[index % 6], linestyle=DASHES[index % 6] if len(series) > 1 else "none", capsize=3,
            )  # fmt: skip
        axes.set_xticks(range(len(labels)), labels)
        if len(labels) > 5:  # a slanted label ends at its tick
            axes.tick_params(axis="x", labelrotation=25)
            for text in axes.get_xticklabels():
                text.set(horizontalalignment="right", rotation_mode="anchor")
        axes.set_xlim(-0.5, len(labels) - 0.5)
        axes.set_ylabel(y_label)
        grid(axes, "y")
        legend_above(figure, len(series))

    return draw(name, (WIDTH, 2.8), title, paint)


def grouped_bar_chart(name: str, title: str, groups: Mapping[str, Mapping[str, float]], y_label: str) -> Markup:
    """Draw a cluster of bars per label, one bar per group, in the order of the groups."""
    labels = list(dict.fromkeys(label for values in groups.values() for label in values))

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        width = 0.8 / len(groups)
        for index, (group, values) in enumerate(groups.items()):
            at = [place - 0.4 + width * (index + 0.5) for place in range(len(labels))]
            axes.bar(
                at, [values.get(label, 0.0) for label in labels], width * 0.92, label=group,
                color=SERIES[index % 6], hatch=HATCHES[index % 6], edgecolor=PAPER, linewidth=0.4,
            )  # fmt: skip
        axes.set_xticks(range(len(labels)), labels)
        axes.set_ylabel(y_label)
        grid(axes, "y")
        legend_above(figure, len(groups))

    return draw(name, (WIDTH, 2.8), title, paint)


def forest_chart(
    name: str, title: str, series: Mapping[str, Sequence[Point]], x_label: str, reference: float | None
) -> Markup:
    """Draw a line per label, the first on top, with a value and its interval of each series; long names have room."""
    labels = list(dict.fromkeys(point[0] for points in series.values() for point in points))
    place = {label: index for index, label in enumerate(labels)}
    spread = 0.2 if len(series) < 4 else 0.7 / len(series)

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        if reference is not None:
            axes.axvline(reference, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        for index, (label, points) in enumerate(series.items()):
            at = [place[point[0]] + spread * (index - (len(series) - 1) / 2) for point in points]
            _, values, lows, highs = zip(*points, strict=True)
            axes.errorbar(
                values, at, xerr=reach(values, lows, highs), label=label, color=SERIES[index % 6],
                marker=MARKERS[index % 6], linestyle="none", capsize=2.5,
            )  # fmt: skip
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(x_label)
        grid(axes, "both")
        legend_above(figure, len(series))

    height = 0.8 + len(labels) * max(0.27, 0.17 * len(series)) + 0.2 * (len(series) > 1)
    return draw(name, (WIDTH, height), title, paint)


def stacked_bar_chart(
    name: str, title: str, bars: Mapping[str, Mapping[str, float]], totals: Sequence[str], x_label: str
) -> Markup:
    """Draw horizontal bars made of parts, the first bar on top, each with its total in words at its end."""
    parts = list(dict.fromkeys(part for values in bars.values() for part in values))

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        ends = [0.0] * len(bars)
        for index, part in enumerate(parts):
            widths = [values.get(part, 0.0) for values in bars.values()]
            drawn = axes.barh(
                range(len(bars)), widths, left=ends, label=part, height=0.62,
                color=PARTS[index % 8], hatch=HATCHES[index % 8], edgecolor=PAPER, linewidth=0.6,
            )  # fmt: skip
            ends = [end + width for end, width in zip(ends, widths, strict=True)]
        axes.bar_label(drawn, labels=list(totals), padding=4, fontsize=8)
        axes.set_yticks(range(len(bars)), list(bars))
        axes.invert_yaxis()
        axes.margins(x=0.14)
        axes.set_xlim(left=0)
        axes.set_xlabel(x_label)
        axes.tick_params(axis="y", length=0)
        grid(axes, "x")
        legend_above(figure, len(parts))

    return draw(name, (WIDTH, 1.15 + 0.32 * len(bars)), title, paint)
