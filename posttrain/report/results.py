"""Sections on results: rounds with their win rates and the gate's word, and the students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.kept import is_itself, kept_weights
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
from posttrain.report.card_data import best_model, round_of
from posttrain.report.charts import Point, interval_chart
from posttrain.report.judged import both_ways, judge_sentence, judges_of, shown_model

Run = Mapping[str, Any]
Rounds = Sequence[Mapping[str, Any]]
ROUND_COLUMNS = (
    "Round",
    "Over the best before",
    "Over the base",
    "Over the base, at equal length",
    "Length to base's",
    "Prompts",
    "Unreadable",
    "Gate",
)


def rounds_section(run: Run) -> Section:
    """Show each round's win rates and whether it was promoted, and why."""
    rounds = run.get("rounds") or []
    if not rounds:
        return Section("rounds", "Rounds and the gate", [not_yet("No round has been evaluated")])
    table = Table(
        "Win rates on held-out prompts with 95 % intervals; ties count one half. Length: own mean over the base's.",
        ROUND_COLUMNS,
        [_round_row(entry, rounds) for entry in rounds],
    )
    reasons: list[list[Cell | str]] = [
        [str(entry.get("round", MISSING)), _gate(entry, rounds), Cell(str(entry["reason"]), "prose")]
        for entry in rounds
        if entry.get("reason")
    ]
    series = {
        label: [
            point
            for entry in rounds
            if not is_itself(rounds, entry)  # its weights have their point already
            and (point := _point(f"round {entry.get('round')}", entry.get(key), "win_rate")) is not None
        ]
        for label, key in (("over the base", "win_rate_vs_base"), ("over the best before", "win_rate_vs_previous"))
    }
    series = {label: points for label, points in series.items() if points}
    blocks: list[Block] = [Text(_headline(run)), *_judge(run), table]
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
        drawing = interval_chart("rounds", "Win rate of each round, with 95 % intervals", series, "win rate", 0.5)
        blocks.append(Picture(drawing, "At 0.5 (dashed) a round is as good as what it is compared with."))
    return Section("rounds", "Rounds and the gate", [*blocks, *_by_judge(run)])


def _by_judge(run: Run) -> list[Block]:
    """Draw every round's win rate over the base by each judge: where they part, one of them is being gamed."""
    judges = judges_of(run)
    entries = run.get("matrix") or []
    measured = {judge.name: both_ways([e for e in entries if e.get("judge") == judge.name]) for judge in judges}
    series = {
        judge.name + (" (TRAINED AGAINST)" if judge.trained_against else ""): points
        for judge in judges
        if (points := [
            point
            for entry in run.get("rounds") or []
            if (point := _point(f"round {entry.get('round')}",
                                measured[judge.name].get((f"round_{entry.get('round')}", "base")), "win_rate"))
        ])
    }  # fmt: skip
    if len(series) < 2:
        return []
    drawing = interval_chart("rounds-by-judge", "Win rate over the base by every judge", series, "over the base", 0.5)
    caption = (
        "The same answers by every judge. Where a judge that the policy was trained against rises and another falls, "
        "the policy has learned to please the first."
    )
    return [Picture(drawing, caption)]


def _judge(run: Run) -> list[Block]:
    sentence = judge_sentence(run)
    if sentence is None:
        return []
    return [Text(sentence, tone="caution" if sentence.startswith("CAUTION") else "plain")]


def _headline(run: Run) -> str:
    rounds = run["rounds"]
    kept = [entry for entry in rounds if is_itself(rounds, entry)]
    promoted = sum(entry.get("promoted") is True for entry in rounds if entry not in kept)
    held = sum(entry.get("promoted") is False for entry in rounds if entry not in kept)
    text = f"{promoted} of {len(rounds)} rounds promoted, {held} held."
    text += "".join(f" {kept_weights(entry).capitalize()}." for entry in kept)
    best = best_model(run)
    if best != "base":
        won = rate((round_of(run, best) or {}).get("win_rate_vs_base"))
        text += f" Best: {shown_model(best)}, win rate over the base {won}."
    return text


def _round_row(entry: Mapping[str, Any], rounds: Rounds) -> list[Cell | str]:
    previous, base = entry.get("win_rate_vs_previous") or {}, entry.get("win_rate_vs_base") or {}
    return [
        str(entry.get("round", MISSING)),
        MISSING if is_itself(rounds, entry) else rate(previous),
        rate(base),
        rate(base.get("length_controlled")),
        _length_ratio(base),
        number(previous.get("num_pairs", base.get("num_pairs"))),
        number(previous.get("unreadable", base.get("unreadable"))),
        _gate(entry, rounds),
    ]


def _length_ratio(measured: Mapping[str, Any]) -> str:
    own, other = measured.get("mean_length_a"), measured.get("mean_length_b")
    return f"× {own / other:.2f}" if is_number(own) and is_number(other) and other else MISSING


def _gate(entry: Mapping[str, Any], rounds: Rounds) -> Cell:
    if is_itself(rounds, entry):
        return Cell(f"kept {shown_model(str(entry['same_as']))}", "note")
    marks = {True: Cell("promoted", "good"), False: Cell("held", "bad")}
    return marks.get(entry.get("promoted"), Cell("open", "note"))  # type: ignore[arg-type]


def _point(label: str, measured: Mapping[str, Any] | None, key: str) -> Point | None:
    if not measured or not is_number(measured.get(key)):
        return None
    low, high = measured.get("low"), measured.get("high")
    return label, measured[key], low if is_number(low) else None, high if is_number(high) else None


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
