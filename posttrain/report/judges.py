"""Sections on verdicts: who judged, every pair of models by every judge, one rating by each, how far they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.report.blocks import (
    MISSING,
    Block,
    Cell,
    Fold,
    Picture,
    Section,
    Table,
    Text,
    interval,
    is_number,
    listed,
    not_yet,
    number,
    rate,
)
from posttrain.report.charts import Point, forest_chart
from posttrain.report.judged import Judge, both_ways, judges_of, shown_model

Run = Mapping[str, Any]
Entries = Sequence[Mapping[str, Any]]


def judges_section(run: Run) -> Section:
    """Show who judged and the win rate of every pair, the gate's judge first and open, the others folded."""
    entries, judges = run.get("matrix") or [], judges_of(run)
    if not entries:
        return Section("win-rates", "Win rates by judge", [*judge_blocks(judges), not_yet("Win-rate matrix")])
    order = model_order(run)
    blocks: list[Block] = judge_blocks(judges)
    for judge in judges or [Judge("", "", True, False)]:
        own = [entry for entry in entries if not judges or entry.get("judge", judge.name) == judge.name]
        if not own:
            blocks.append(not_yet(f"Verdicts of {judge.name}"))
            continue
        matrix, pairs = _matrix(own, order, judge), _pairs(own, judge)
        if judge.main:
            blocks += [matrix, Fold(f"Every pair in numbers{_by(judge)}", [pairs])]
        else:
            blocks.append(Fold(f"Matrix and numbers{_by(judge)}", [matrix, pairs]))
    if len(judges) > 1:
        blocks.append(_side_by_side(entries, judges, order))
    return Section("win-rates", "Win rates by judge", blocks)


def judge_blocks(judges: Sequence[Judge]) -> list[Block]:
    """Say who judged; loudly where the policy was trained against a judge."""
    if not judges:
        return []
    against = [judge.name for judge in judges if judge.trained_against]
    blocks: list[Block] = []
    if against:
        blocks.append(
            Text(
                f"CAUTION: the policy was trained against {listed(against)}. Win rates by such a judge rise even where "
                "the answers get worse; trust them only beside another judge.",
                tone="caution",
            )
        )
    rows = [
        [
            judge.name,
            judge.kind.replace("_", " ") or MISSING,
            "decides the gate" if judge.main else "stands beside",
            Cell("YES", "bad") if judge.trained_against else "no",
        ]
        for judge in judges
    ]
    blocks.append(Table("The judges.", ["Judge", "Kind", "Part", "Trained against"], rows))
    return blocks


def _by(judge: Judge) -> str:
    warning = ", TRAINED AGAINST" if judge.trained_against else ""
    return f" by {judge.name}{warning}" if judge.name else ""


def model_order(run: Run) -> list[str]:
    """List the run's models as a reader expects them: base, rounds as they came, teacher, students."""
    names = dict.fromkeys(
        str(name)
        for entry in [*(run.get("ratings") or []), *(run.get("matrix") or [])]
        for name in (entry.get("model"), entry.get("a"), entry.get("b"))
        if name
    )
    groups = ("base", "round_", "teacher", "students/")

    def key(name: str) -> tuple[int, int, int]:
        group = next((place for place, start in enumerate(groups) if name.startswith(start)), len(groups))
        digits = name.removeprefix("round_").partition("/")[0]
        # round_1/sft comes before round_1, the policy that was trained from it
        return group, int(digits) if group == 1 and digits.isdecimal() else 0, 0 if "/" in name else 1

    return sorted(names, key=key)


def _matrix(entries: Entries, order: Sequence[str], judge: Judge) -> Table:
    """Lay the win rates out with the row's model as A; a pair measured one way round is mirrored to fill the other."""
    measured = both_ways(entries)
    found = {model for pair in measured for model in pair}
    models = [model for model in order if model in found]
    rows = []
    for first in models:
        cells: list[Cell | str] = [shown_model(first)]
        for second in models:
            pair = measured.get((first, second))
            cells.append(Cell(MISSING, "empty") if pair is None else _cell(pair))
        rows.append(cells)
    caption = f"Win rate of the row's model over the column's{_by(judge)}, with 95 % intervals."
    return Table(caption, ["", *(shown_model(model) for model in models)], rows)


def _cell(pair: Mapping[str, Any]) -> Cell:
    return Cell(number(float(pair["win_rate"]), 2), "shaded", float(pair["win_rate"]), interval(pair, 2))


def _pairs(entries: Entries, judge: Judge) -> Table:
    columns = [
        "A over B", "Win rate", "At equal length", "Wins", "Ties", "Losses", "Prompts", "Unreadable",
        "Mean length of A", "Mean length of B", "Flips",
    ]  # fmt: skip
    rows = [
        [
            f"{shown_model(entry['a'])} over {shown_model(entry['b'])}",
            rate(entry),
            rate(entry.get("length_controlled")),
            *(number(entry.get(key)) for key in ("wins", "ties", "losses", "num_pairs", "unreadable")),
            *(number(entry.get(key), 1) for key in ("mean_length_a", "mean_length_b")),
            number(entry.get("flip_rate")),
        ]
        for entry in entries
    ]
    caption = (
        f"Every pair{_by(judge)}. Lengths are in characters; flips are the share of verdicts that changed when the "
        "answers changed places."
    )
    return Table(caption, columns, rows)


def _side_by_side(entries: Entries, judges: Sequence[Judge], order: Sequence[str]) -> Fold:
    """Put the judges' word on each pair into one line."""
    measured = {(entry["a"], entry["b"], entry.get("judge")): entry for entry in entries}
    pairs = dict.fromkeys((entry["a"], entry["b"]) for entry in entries)
    rows = [
        [
            f"{shown_model(a)} over {shown_model(b)}",
            *(rate(measured.get((a, b, judge.name))) for judge in judges),
        ]
        for a, b in pairs
    ]
    columns = ["A over B", *(judge.name + (" (TRAINED AGAINST)" if judge.trained_against else "") for judge in judges)]
    return Fold("Judges side by side, pair by pair", [Table("Win rates by every judge.", columns, rows)])


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
