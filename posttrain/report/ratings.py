"""The section on ratings: one for every model by each judge, and how far the judges agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.report.blocks import MISSING, Block, Picture, Section, Table, is_number, not_yet, number
from posttrain.report.charts import Point, forest_chart
from posttrain.report.judged import judges_of, model_order, shown_model

Run = Mapping[str, Any]
Entries = Sequence[Mapping[str, Any]]


def ratings_section(run: Run) -> Section:
    """Show one rating for all models by each judge, anchored at the base, and how far the judges agree."""
    main = next((judge.name for judge in judges_of(run) if judge.main), "")
    by_judge = {str(name): entries for name, entries in (run.get("ratings_by_judge") or {}).items() if entries}
    if not by_judge and run.get("ratings"):
        by_judge = {main: run["ratings"]}
    order = model_order(run)
    series = {
        name: points
        for name, entries in sorted(by_judge.items(), key=lambda item: item[0] != main)
        if (points := _points(entries, order))
    }
    blocks: list[Block] = []
    if series:
        loud = {judge.name: f"{judge.name} (TRAINED AGAINST)" for judge in judges_of(run) if judge.trained_against}
        drawn = {loud.get(name, name): points for name, points in series.items()}
        drawing = forest_chart("ratings", "Rating of every model, with 95 % intervals", drawn, "rating", 0.0)
        rows = [
            [label, name or MISSING, number(float(value), 0), _interval(low, high)]
            for name, points in series.items()
            for label, value, low, high in points
        ]
        blocks.append(Picture(drawing, f"{_highest(series)} The base is 0; 400 points are odds of 10 to 1."))
        blocks.append(Table("Ratings in numbers.", ["Model", "Judge", "Rating", "95 % interval"], rows, folded=True))
    else:
        blocks.append(not_yet("Ratings"))
    return Section("ratings", "Ratings", [*blocks, *_agreement(run)])


def _points(entries: Entries, order: Sequence[str]) -> list[Point]:
    known = {str(entry.get("model")): entry for entry in entries if is_number(entry.get("rating"))}
    names = [*(name for name in order if name in known), *(name for name in known if name not in order)]
    return [
        (shown_model(name), float(entry["rating"]), _bound(entry.get("low")), _bound(entry.get("high")))
        for name in names
        for entry in (known[name],)
    ]


def _bound(value: object) -> float | None:
    return float(value) if is_number(value) else None  # type: ignore[arg-type]


def _highest(series: Mapping[str, Sequence[Point]]) -> str:
    parts = []
    for name, points in series.items():
        label, value, low, high = max(points, key=lambda point: point[1])
        interval = "" if low is None else f" [{_interval(low, high)}]"
        parts.append((f"{name} puts {label} first, at " if name else f"{label} stands first, at ")
                     + f"{number(value, 0)}{interval}")  # fmt: skip
    return "; ".join(parts) + "."


def _interval(low: float | None, high: float | None) -> str:
    return MISSING if low is None or high is None else f"{number(float(low), 0)} to {number(float(high), 0)}"


def _agreement(run: Run) -> list[Block]:
    entries = run.get("agreement") or []
    if not entries:
        return [not_yet("Agreement between judges")] if len(judges_of(run)) > 1 else []
    rows = [
        [
            f"{entry['judge_a']} and {entry['judge_b']}",
            number(entry.get("agreement")),
            number(entry.get("kappa")),
            number(entry.get("ac1")) + (f" [{number(entry['low'])}, {number(entry['high'])}]"
                                        if is_number(entry.get("low")) and is_number(entry.get("high")) else ""),
            number(entry.get("num_pairs")),
        ]
        for entry in entries
    ]  # fmt: skip
    caption = (
        "How often two judges gave one verdict on the same prompt and pair; kappa (Cohen) and AC1 (Gwet) take off what "
        "chance would give: 1 is always, 0 no more than chance."
    )
    return [Table(caption, ["Judges", "Same verdict", "Kappa", "AC1 [95 %]", "Verdicts"], rows)]
