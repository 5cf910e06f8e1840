"""Sections on data and on the reward model that chose from it: the funnel, accuracy, calibration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from posttrain.evaluate.intervals import wilson_interval
from posttrain.report.blocks import Block, Picture, Section, Table, Text, interval, is_number, not_yet, number
from posttrain.report.charts import grouped_bar_chart
from posttrain.report.curves import Bin, calibration_charts

Run = Mapping[str, Any]
MEASURES = {
    "ece": "expected calibration error",
    "num_pairs": "pairs",
    "num_unscored": "pairs without a score",
    "num_length_matched": "pairs of like length",
    "length_matched_accuracy": "accuracy on pairs of like length",
    "score_length_correlation": "correlation of score and length",
    "margin_length_correlation": "correlation of margin and difference in length",
    "length_only_accuracy": "accuracy of length alone",
}


def funnel_section(run: Run) -> Section:
    """Show how many rows passed each step of a round, and why the others did not."""
    funnels = _by_round(run.get("funnel"))
    rounds = {f"round {name}": list(funnel.get("steps") or []) for name, funnel in funnels.items()}
    groups = {
        name: {
            f"{step['step']}\n({step['unit']})": float(step["rows"]) for step in steps if is_number(step.get("rows"))
        }
        for name, steps in rounds.items()
    }
    groups = {name: values for name, values in groups.items() if values}
    if not groups:
        return Section("data", "Data", [not_yet("Counts of rows")])
    labels = _union(label for values in groups.values() for label in values)
    drawing = grouped_bar_chart("funnel", "Rows that passed each step, by round", groups, "rows")
    caption = "From prompts written to rows trained on. A prompt that is kept becomes K samples."
    counts = [[name, *(number(_whole(values.get(label))) for label in labels)] for name, values in groups.items()]
    blocks: list[Block] = [
        Picture(drawing, caption),
        Table("Rows by step.", ["Round", *(_sentence(label) for label in labels)], counts),
    ]
    blocks += [
        Text(f"Warning, round {name}: {warning}.", tone="warning")
        for name, funnel in funnels.items()
        for warning in funnel.get("warnings") or []
    ]
    drops = _drops(rounds)
    blocks.append(
        Table("Rows dropped, by step and reason.", ["Step", "Reason", *map(str.capitalize, rounds)], drops)
        if drops
        else not_yet("Drops")
    )
    return Section("data", "Data", blocks)


def _sentence(label: str) -> str:
    return label[:1].upper() + label[1:].replace("\n", " ")


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _drops(rounds: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[list[str]]:
    """Lay the drops out with a line per step and reason, the most frequent of a step first, and a column per round."""
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for name, steps in rounds.items():
        for step in steps:
            for reason, count in (step.get("dropped") or {}).items():
                counts.setdefault((str(step["step"]), str(reason)), {})[name] = count
    order = _union(step for step, _ in counts)
    lines = sorted(counts.items(), key=lambda item: (order.index(item[0][0]), -sum(item[1].values())))
    return [
        [step, _words(reason), *(number(by_round.get(name, 0)) for name in rounds)]
        for (step, reason), by_round in lines
    ]


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
    rows = [
        [MEASURES.get(key, _words(key)), *(_measured(report, key) for report in reports.values())]
        for key in measures
        if not key.endswith(("_low", "_high"))
    ]
    columns = ["Measure", *(f"Round {name}" for name in reports)]
    blocks: list[Block] = [Table("On preference pairs kept out of training.", columns, rows)]
    strengths = {name: report["by_strength"] for name, report in reports.items() if report.get("by_strength")}
    if strengths:
        blocks.append(_strengths(strengths))
    curves = {name: points for name, report in reports.items() if (points := _bins(report.get("calibration")))}
    blocks += _calibration(curves, reports) if curves else [not_yet("Calibration")]
    return Section("reward-model", "Reward model", blocks)


def _measured(report: Mapping[str, Any], key: str) -> str:
    """Write a measure with its interval, where the report has one."""
    bounds: Mapping[str, Any] = {"low": report.get(f"{key}_low"), "high": report.get(f"{key}_high")}
    counts = {"length_only_accuracy": "num_pairs", "length_matched_accuracy": "num_length_matched"}
    if key in counts and is_number(report.get(key)) and report.get(counts[key]):
        bounds = _bounds(report[key], report[counts[key]])
    return f"{number(report.get(key))} {interval(bounds)}".rstrip()


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
    if not count:
        return number(entry.get("accuracy"))
    return f"{number(entry.get('accuracy'))} {interval(_bounds(entry['accuracy'], count))} ({number(count)} pairs)"


def _bounds(accuracy: float, count: int) -> dict[str, Any]:
    low, high = wilson_interval(accuracy, count)
    return {"low": low, "high": high}


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


def _union(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _words(name: str) -> str:
    return name.replace("_", " ")
