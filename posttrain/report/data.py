"""Sections on data and scores: the funnel, the reward model, best of K."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from posttrain.report.blocks import Block, Picture, Section, Table, is_number, not_yet, number
from posttrain.report.charts import Bin, calibration_charts, doubling_chart, grouped_bar_chart

Run = Mapping[str, Any]
STEPS = ("written", "cleaned", "sampled", "kept", "trained")


def funnel_section(run: Run) -> Section:
    """Show how many rows passed each step of a round, and why the others did not."""
    funnels = _by_round(run.get("funnel"))
    if not funnels:
        return Section("data", "Data", [not_yet("Counts of rows")])
    steps = [step for step in STEPS if any(is_number(funnel.get(step)) for funnel in funnels.values())]
    groups = {
        f"round {name}": {step: float(funnel[step]) for step in steps if is_number(funnel.get(step))}
        for name, funnel in funnels.items()
    }
    counts = [[f"round {name}", *(number(funnel.get(step)) for step in steps)] for name, funnel in funnels.items()]
    blocks: list[Block] = []
    if steps:
        drawing = grouped_bar_chart("funnel", "Rows that passed each step, by round", groups, "rows")
        blocks.append(Picture(drawing, "From prompts written to rows trained on."))
        blocks.append(Table("Rows by step.", ["Round", *(step.capitalize() for step in steps)], counts))
    drops = [
        [f"round {name}", str(reason), number(count)]
        for name, funnel in funnels.items()
        for reason, count in sorted((funnel.get("dropped") or {}).items(), key=lambda item: -item[1])
    ]
    blocks.append(Table("Rows dropped, by reason.", ["Round", "Reason", "Rows"], drops) if drops else not_yet("Drops"))
    return Section("data", "Data", blocks)


def _by_round(value: object) -> dict[str, Mapping[str, Any]]:
    """Take a mapping of rounds, or a list of rows that name theirs."""
    if isinstance(value, Mapping):
        return {str(name): entry for name, entry in value.items() if isinstance(entry, Mapping)}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return {str(entry.get("round", place)): entry for place, entry in enumerate(value, start=1)}
    return {}


def reward_model_section(run: Run) -> Section:
    """Show how often each round's reward model was right on held-out pairs, and whether it knew when."""
    reports = _by_round(run.get("reward_model")) or {
        str(entry.get("round")): entry["reward_model"]
        for entry in run.get("rounds") or []
        if isinstance(entry.get("reward_model"), Mapping) and entry["reward_model"]
    }
    if not reports:
        return Section("reward-model", "Reward model", [not_yet("Reward model report")])
    measures = _union(
        key for report in reports.values() for key, value in report.items() if is_number(value) and key != "round"
    )
    rows = [[_words(key), *(number(report.get(key)) for report in reports.values())] for key in measures]
    columns = ["Measure", *(f"Round {name}" for name in reports)]
    blocks: list[Block] = [Table("On preference pairs kept out of training.", columns, rows)]
    strengths = {name: report["by_strength"] for name, report in reports.items() if report.get("by_strength")}
    if strengths:
        blocks.append(_strengths(strengths))
    curves = {name: points for name, report in reports.items() if (points := _bins(report.get("calibration")))}
    blocks += _calibration(curves, reports) if curves else [not_yet("Calibration")]
    return Section("reward-model", "Reward model", blocks)


def _calibration(curves: Mapping[str, list[Bin]], reports: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    """Draw a panel per reward model, and put its bins into a table."""
    charts = []
    for name, points in curves.items():
        error = reports[name].get("ece")
        charts.append((f"round {name}" + (f", error {number(error)}" if is_number(error) else ""), points))
    drawing = calibration_charts("calibration", "Calibration of the reward model, by round", charts)
    caption = (
        "On the dashed line a reward model is right as often as it expects to be; below it, it is too sure. Marks grow "
        "with the pairs behind them, bars are 95 % intervals, error is the expected calibration error (ECE)."
    )
    rows = [
        [f"round {name}", number(bin.confidence), f"{number(bin.accuracy)} [{number(bin.low)}, {number(bin.high)}]",
         number(bin.count)]
        for name, points in curves.items() for bin in points
    ]  # fmt: skip
    table = Table("Calibration in numbers.", ["Reward model", "Sure", "Right", "Pairs"], rows, folded=True)
    return [Picture(drawing, caption), table]


def _strengths(by_round: Mapping[str, Mapping[str, Any]]) -> Table:
    names = _union(key for strengths in by_round.values() for key in strengths)
    rows = [[f"round {name}", *(_accuracy(entry.get(key)) for key in names)] for name, entry in by_round.items()]
    return Table("Accuracy by how clear the preference was.", ["Round", *(_words(name) for name in names)], rows)


def _accuracy(entry: object) -> str:
    """Write an accuracy that stands alone, or beside the number of pairs it was measured on."""
    if not isinstance(entry, Mapping):
        return number(entry)
    count = entry.get("num_pairs")
    return number(entry.get("accuracy")) + (f" ({number(count)} pairs)" if count is not None else "")


def _bins(bins: object) -> list[Bin]:
    """Read calibration bins: rows of `confidence`, `accuracy`, `count`; bins without pairs are left out."""
    if not isinstance(bins, Sequence):
        return []
    points = []
    for entry in bins:
        sure, right, count = entry.get("confidence"), entry.get("accuracy"), entry.get("count")
        if is_number(sure) and is_number(right) and is_number(count) and count > 0:
            points.append(Bin(float(sure), float(right), *wilson_interval(float(right), count), count))
    return points


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Give the 95 % interval of a share of `count` pairs (Wilson 1927); ties may make it no whole number of them."""
    z = 1.959964
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # rounding must not leave a share of 0 or 1 outside its own interval
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def best_of_k_section(run: Run) -> Section:
    """Show the mean score of the best of K samples, as K doubles."""
    curve = run.get("best_of_k") or {}
    series = curve if any(isinstance(value, Mapping) for value in curve.values()) else {"best of K": curve}
    lines = {
        str(name): sorted((float(k), float(score)) for k, score in points.items() if is_number(score) and float(k) > 0)
        for name, points in series.items()
        if isinstance(points, Mapping)
    }
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return Section("best-of-k", "Best of K", [not_yet("Best-of-K curve")])
    labels = ("K, samples per prompt", "mean score")
    drawing = doubling_chart("best-of-k", "Mean score of the best of K samples", lines, labels)
    ks = sorted({k for points in lines.values() for k, _ in points})
    rows = [[name, *(number(dict(points).get(k)) for k in ks)] for name, points in lines.items()]
    table = Table("Mean score by K.", ["Scores of", *(f"{k:g}" for k in ks)], rows, folded=True)
    caption = "What sampling K completions and keeping the best would have given."
    return Section("best-of-k", "Best of K", [Picture(drawing, caption), table])


def _union(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _words(name: str) -> str:
    return name.replace("_", " ")
