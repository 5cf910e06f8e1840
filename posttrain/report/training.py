"""Sections on work: where time went, and what each training saw on its way."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.report.blocks import Block, Cell, Picture, Section, Table, duration, is_number, not_yet
from posttrain.report.charts import bar_chart, panels

Run = Mapping[str, Any]
Points = list[tuple[float, float]]

# Heading of a panel, and the logged names that it draws together. Log-probs, rewards and KL are in nats.
PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss", ("loss", "train_loss", "eval_loss")),
    ("parts of the loss", ("loss/preference", "loss/nll", "loss/divergence")),
    ("accuracy", ("accuracy", "rewards/accuracies", "mean_token_accuracy", "eval_accuracy", "eval_rewards/accuracies")),
    ("margin", ("margin", "rewards/margins")),
    ("implicit reward", ("rewards/chosen", "rewards/rejected")),
    ("log-prob per token (nats)", ("logps_per_token/chosen", "logps_per_token/rejected")),
    ("log-prob of answers (nats)", ("logps/chosen", "logps/rejected", "chosen_logprob", "rejected_logprob")),
    ("KL per token (nats)", ("kl", "objective/kl")),
    ("score", ("mean_reward", "min_reward", "max_reward")),
    ("entropy (nats)", ("entropy",)),
    ("length (tokens)", ("length/chosen", "length/rejected", "length", "mean_length", "completions/mean_length")),
    ("gradient norm", ("grad_norm",)),
    ("learning rate", ("learning_rate",)),
    ("tokens per second", ("tokens_per_second",)),
    ("share of the peak of matrix products", ("matmul_share",)),
)
MAX_POINTS = 200
MAX_BARS = 40


def time_section(run: Run) -> Section:
    """Show the stages with their time, the longest drawn."""
    stages = [stage for stage in run.get("stages") or [] if isinstance(stage, Mapping)]
    if not stages:
        stages = [{"name": name, "seconds": seconds} for name, seconds in (run.get("seconds") or {}).items()]
    if not stages:
        return Section("time", "Time by stage", [not_yet("Stages")])
    timed = [(str(stage.get("name")), float(stage["seconds"])) for stage in stages if is_number(stage.get("seconds"))]
    blocks: list[Block] = []
    if timed:
        total = sum(seconds for _, seconds in timed)
        shown = {name for name, _ in sorted(timed, key=lambda item: -item[1])[:MAX_BARS]}
        bars = [(name, seconds, duration(seconds)) for name, seconds in timed if name in shown]
        caption = f"{duration(total)} in {len(timed)} stages, in the order they ran."
        if len(bars) < len(timed):
            caption += f" The {len(bars)} longest are drawn."
        blocks.append(Picture(bar_chart("time", "Seconds spent in each stage", bars, "seconds"), caption))
    rows: list[list[Cell | str]] = [
        [
            str(stage.get("name")),
            duration(stage.get("seconds")),
            str(stage.get("status") or "finished"),
            Cell(str(stage.get("address") or "–"), "code"),
        ]
        for stage in stages
    ]
    blocks.append(Table("Stages.", ["Stage", "Time", "Status", "Address"], rows, folded=True))
    return Section("time", "Time by stage", blocks)


def curves_section(run: Run) -> Section:
    """Show the logged numbers of each training stage over its steps."""
    blocks: list[Block] = []
    for name, rows in (run.get("training") or {}).items():
        charts = _charts(rows)
        if not charts:
            continue
        key = "training-" + re.sub(r"[^a-z0-9]+", "-", str(name).lower())
        headings = ", ".join(heading for heading, _ in charts)
        drawing = panels(key, f"{name}: {headings} over training steps", charts)
        blocks.append(Picture(drawing, f"{name}. {_first_to_last(charts)}"))
        blocks.append(_in_numbers(str(name), rows))
    return Section("training", "Training", blocks or [not_yet("Training curves")])


def _in_numbers(stage: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Put every curve of a stage into a line: where it began and ended, and its extremes, of all logged steps."""
    lines: list[list[Cell | str]] = []
    for _, names in PANELS:
        for name in names:
            values = [float(row[name]) for row in rows if is_number(row.get(name))]
            if values:
                lines.append([name, *(f"{value:.4g}" for value in (values[0], values[-1], min(values), max(values)))])
    columns = ["Logged as", "First", "Last", "Lowest", "Highest"]
    return Table(f"{stage} in numbers.", columns, lines, folded=True)


def _charts(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, dict[str, Points]]]:
    charts = []
    for heading, names in PANELS:
        series = {name: points for name in names if (points := _points(rows, name))}
        if series:
            charts.append((heading, series))
    return charts


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> Points:
    points = [
        (float(row.get("step", place)), float(row[name]))
        for place, row in enumerate(rows, start=1)
        if is_number(row.get(name)) and is_number(row.get("step", place))
    ]
    # A page does not need every step: every n-th and the last draw the same line.
    stride = -(-len(points) // MAX_POINTS) if points else 1
    return points[::stride] + (points[-1:] if stride > 1 and (len(points) - 1) % stride else [])


def _first_to_last(charts: Sequence[tuple[str, Mapping[str, Points]]]) -> str:
    """Put the drawing's main line in words."""
    heading, series = charts[0]
    name, points = next(iter(series.items()))
    return f"{name} from {points[0][1]:.4g} to {points[-1][1]:.4g} over {points[-1][0]:g} steps."
