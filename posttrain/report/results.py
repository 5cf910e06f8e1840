"""Sections on results: rounds with their win rates and the gate's word, the matrix, the ratings, the students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    rate,
)
from posttrain.report.charts import Point, interval_chart
from posttrain.report.judged import judge_sentence

Run = Mapping[str, Any]
ROUND_COLUMNS = (
    "Round",
    "Over the best before",
    "Over the base",
    "Over the base, at equal length",
    "Prompts",
    "Unreadable",
    "Gate",
)


def rounds_section(run: Run) -> Section:
    """Show each round's win rates and whether it was promoted, and why."""
    rounds = run.get("rounds") or []
    if not rounds:
        return Section("rounds", "Rounds", [not_yet("No round has been evaluated")])
    table = Table(
        "Win rates on held-out prompts with 95 % intervals; ties count one half.",
        ROUND_COLUMNS,
        [_round_row(entry) for entry in rounds],
    )
    reasons: list[list[Cell | str]] = [
        [str(entry.get("round", MISSING)), _gate(entry), Cell(str(entry["reason"]), "prose")]
        for entry in rounds
        if entry.get("reason")
    ]
    series = {
        label: [
            point
            for entry in rounds
            if (point := _point(f"round {entry.get('round')}", entry.get(key), "win_rate")) is not None
        ]
        for label, key in (("over the base", "win_rate_vs_base"), ("over the best before", "win_rate_vs_previous"))
    }
    series = {label: points for label, points in series.items() if points}
    blocks: list[Block] = [Text(_headline(rounds)), *_judge(run), table]
    if reasons:
        blocks.append(Table("Why each round was promoted or held.", ["Round", "Gate", "Why"], reasons))
    averages: list[list[Cell | str]] = [
        [str(entry.get("round", MISSING)), str(choice["taken"]), Cell(str(choice["reason"]), "prose")]
        for entry in rounds
        if (choice := entry.get("average"))
    ]
    if averages:
        blocks.append(Table("Averages of policies.", ["Round", "Taken", "Why"], averages))
    if series:
        drawing = interval_chart("win-rates", "Win rate of each round, with 95 % intervals", series, "win rate", 0.5)
        blocks.append(Picture(drawing, "At 0.5 (dashed) a round is as good as what it is compared with."))
    return Section("rounds", "Rounds", blocks)


def _judge(run: Run) -> list[Block]:
    sentence = judge_sentence(run)
    if sentence is None:
        return []
    return [Text(sentence, tone="caution" if sentence.startswith("CAUTION") else "plain")]


def _headline(rounds: Sequence[Mapping[str, Any]]) -> str:
    promoted = [entry for entry in rounds if entry.get("promoted")]
    held = sum(entry.get("promoted") is False for entry in rounds)
    text = f"{len(promoted)} of {len(rounds)} rounds promoted, {held} held."
    if promoted:
        best = promoted[-1]
        text += f" Best: round {best.get('round')}, win rate over the base {rate(best.get('win_rate_vs_base'))}."
    return text


def _round_row(entry: Mapping[str, Any]) -> list[Cell | str]:
    previous, base = entry.get("win_rate_vs_previous") or {}, entry.get("win_rate_vs_base") or {}
    return [
        str(entry.get("round", MISSING)),
        rate(previous),
        rate(base),
        rate(base.get("length_controlled")),
        number(previous.get("num_pairs", base.get("num_pairs"))),
        number(previous.get("unreadable", base.get("unreadable"))),
        _gate(entry),
    ]


def _gate(entry: Mapping[str, Any]) -> Cell:
    marks = {True: Cell("promoted", "good"), False: Cell("held", "bad")}
    return marks.get(entry.get("promoted"), Cell("open", "note"))  # type: ignore[arg-type]


def _point(label: str, measured: Mapping[str, Any] | None, key: str) -> Point | None:
    if not measured or not is_number(measured.get(key)):
        return None
    low, high = measured.get("low"), measured.get("high")
    return label, measured[key], low if is_number(low) else None, high if is_number(high) else None


def ratings_section(run: Run) -> Section:
    """Show one rating for all models, anchored at the base, and the matrix it stands on."""
    points = [
        point
        for entry in run.get("ratings") or []
        if (point := _point(_shown(entry.get("model")), entry, "rating")) is not None
    ]
    blocks: list[Block] = [_matrix(run.get("matrix") or [], [entry.get("model") for entry in run.get("ratings") or []])]
    if points:
        drawing = interval_chart("ratings", "Rating of every model, with 95 % intervals", {"": points}, "rating", 0.0)
        rows = [[label, number(float(value), 0), _interval(low, high)] for label, value, low, high in points]
        blocks = [
            Picture(drawing, "Bradley-Terry over all pairs; the base is 0, and 400 points are odds of 10 to 1."),
            Table("Ratings.", ["Model", "Rating", "95 % interval"], rows, folded=True),
            *blocks,
        ]
    else:
        blocks.insert(0, not_yet("Ratings"))
    return Section("ratings", "Ratings", blocks)


def _interval(low: float | None, high: float | None) -> str:
    return MISSING if low is None or high is None else f"{number(float(low), 0)} to {number(float(high), 0)}"


def _shown(model: object) -> str:
    return str(model).removeprefix("students/")


def _matrix(entries: Sequence[Mapping[str, Any]], order: Sequence[object]) -> Block:
    """Lay the win rates out with the row's model as A; a pair measured one way round is mirrored to fill the other.

    Args:
        entries: Win rates, each of `a` over `b`.
        order: Models as the ratings list them; others follow.
    """
    measured = {(entry["a"], entry["b"]): entry for entry in entries if is_number(entry.get("win_rate"))}
    if not measured:
        return not_yet("Win-rate matrix")
    for (first, second), entry in list(measured.items()):
        measured.setdefault((second, first), _mirrored(entry))
    found = list(dict.fromkeys(model for pair in measured for model in pair))
    models = [*(model for model in order if model in found), *(model for model in found if model not in order)]
    rows = []
    for first in models:
        cells: list[Cell | str] = [_shown(first)]
        for second in models:
            pair = measured.get((first, second))
            cells.append(MISSING if pair is None else Cell(rate(pair), "shaded", float(pair["win_rate"])))
        rows.append(cells)
    caption = "Win rate of the row's model over the column's, with 95 % intervals."
    return Table(caption, ["", *(_shown(model) for model in models)], rows)


def _mirrored(entry: Mapping[str, Any]) -> dict[str, Any]:
    low, high = entry.get("low"), entry.get("high")
    return {
        "win_rate": 1.0 - entry["win_rate"],
        "low": 1.0 - high if is_number(high) and high is not None else None,
        "high": 1.0 - low if is_number(low) and low is not None else None,
    }


def students_section(run: Run) -> Section:
    """Show what each student gained over its own base, and how near it came to its teacher."""
    students = run.get("students") or []
    if not students:
        return Section("students", "Students", [not_yet("Students")])
    rows = [
        [
            str(student.get("name")),
            rate(student.get("win_rate_vs_own_base")),
            rate(student.get("win_rate_vs_teacher")),
            number((student.get("win_rate_vs_own_base") or {}).get("num_pairs")),
        ]
        for student in students
    ]
    columns = ["Student", "Over its own base", "Over its teacher", "Prompts"]
    return Section("students", "Students", [Table("Win rates of the students.", columns, rows)])
