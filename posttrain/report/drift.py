"""Sections on what win rates do not show: drift from the base with its alarms, and numbers of other benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain.report.blocks import (
    MISSING,
    Block,
    Cell,
    Picture,
    Section,
    Table,
    Text,
    is_number,
    not_yet,
    number,
)
from posttrain.report.curves import threshold_charts
from posttrain.report.judged import shown_model

Run = Mapping[str, Any]
MEASURES = {
    "kl_from_base": "KL from the base (nats per token)",
    "mean_length_ratio": "mean length, as a ratio to the base's",
    "distinct_share": "share of distinct word pairs",
    "refusal_share": "share of refusals",
    "language_shift": "shift of the language mix",
    "truncated_share": "share of answers cut at the limit",
}
HEADINGS = {
    "kl_from_base": "KL from the base",
    "mean_length_ratio": "length over the base's",
    "distinct_share": "distinct word pairs",
    "refusal_share": "refusals",
    "language_shift": "language shift",
    "truncated_share": "answers cut off",
}


def alarms(run: Run) -> list[Mapping[str, Any]]:
    """List the drift measures that went over their thresholds."""
    return [entry for entry in run.get("drift") or [] if entry.get("alarm")]


def drift_section(run: Run) -> Section:
    """Show every measure of drift by round against its threshold, the alarms in words first."""
    entries = run.get("drift") or []
    if not entries:
        return Section("drift", "Drift", [not_yet("Measures of drift")])
    raised = alarms(run)
    blocks: list[Block] = [
        Text(f"ALARM in round {entry.get('round')}: {entry.get('reason') or _named(entry)}", tone="caution")
        for entry in raised
    ]
    if not raised:
        blocks.append(Text(f"No alarm: all {len(entries)} measures stayed within their thresholds."))
    charts = [
        (HEADINGS.get(measure, measure.replace("_", " ")), series)
        for measure in dict.fromkeys(str(entry.get("measure")) for entry in entries)
        if (series := _series(entries, measure))
    ]
    if charts:
        drawing = threshold_charts("drift", "Measures of drift by round, with their thresholds", charts, "round")
        blocks.append(
            Picture(drawing, "Solid: what was measured on held-out prompts. Dashed: where an alarm is raised.")
        )
    rows: list[list[Cell | str]] = [
        [
            f"round {entry.get('round')}",
            _named(entry),
            number(entry.get("value")),
            number(entry.get("threshold")),
            Cell("ALARM", "bad") if entry.get("alarm") else Cell("within", "good"),
            Cell(str(entry.get("reason") or ""), "prose"),
        ]
        for entry in entries
    ]
    columns = ["Round", "Measure", "Value", "Threshold", "State", "Why"]
    blocks.append(Table("Drift in numbers.", columns, rows, folded=bool(charts)))
    return Section("drift", "Drift", blocks)


def _named(entry: Mapping[str, Any]) -> str:
    measure = str(entry.get("measure"))
    return MEASURES.get(measure, measure.replace("_", " "))


def _series(entries: list[Mapping[str, Any]], measure: str) -> dict[str, list[tuple[float, float]]]:
    own = [entry for entry in entries if entry.get("measure") == measure and is_number(entry.get("round"))]
    series = {
        name: [(float(entry["round"]), float(entry[key])) for entry in own if is_number(entry.get(key))]
        for name, key in (("measured", "value"), ("threshold", "threshold"))
    }
    return {name: points for name, points in series.items() if points} if series["measured"] else {}


def harness_section(run: Run) -> Section:
    """Show the numbers of lm-evaluation-harness beside the win rates, where somebody ran it."""
    entries, left_out = run.get("harness") or [], int(run.get("harness_left_out") or 0)
    blocks: list[Block] = []
    if left_out:
        text = f"Warning: {left_out} numbers are left out: they are of checkpoints that the run has since replaced."
        blocks.append(Text(text, tone="warning"))
    if not entries:
        text = "No benchmark was run on this run's models (posttrain evaluate)."
        return Section("harness", "Benchmarks", [*blocks, Text(text, tone="note")])
    rows = [
        [
            shown_model(entry.get("model")),
            str(entry.get("task")),
            str(entry.get("metric")),
            harness_settings(entry) or MISSING,
            number(entry.get("value")),
            f"± {number(entry.get('stderr'))}" if is_number(entry.get("stderr")) else number(entry.get("stderr")),
        ]
        for entry in entries
    ]
    columns = ["Model", "Task", "Metric", "Asked", "Value", "Standard error"]
    return Section("harness", "Benchmarks", [*blocks, Table("By lm-evaluation-harness.", columns, rows)])


def harness_settings(entry: Mapping[str, Any]) -> str:
    """Say in words how a benchmark was asked; what is as ever (whole, float32, seed 0, no template) is not said."""
    said = [
        f"{entry['num_fewshot']} solved examples" if entry.get("num_fewshot") is not None else "",
        f"first {entry['limit']} documents" if entry.get("limit") is not None else "",
        "chat template" if entry.get("chat_template") else "",
        str(entry["dtype"]) if entry.get("dtype") not in (None, "float32") else "",
        f"seed {entry['seed']}" if entry.get("seed") else "",
    ]
    return ", ".join(part for part in said if part)
