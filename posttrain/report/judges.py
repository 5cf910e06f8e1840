"""The section on verdicts: who judged, and every pair of models by every judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.evaluate.gate import caution
from posttrain.report.blocks import (
    MISSING,
    Block,
    Cell,
    Fold,
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
from posttrain.report.judged import Judge, both_ways, judges_of, model_order, shown_model

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
    return Section("win-rates", "Win rates by judge", [*blocks, *_mean_scores(run, order)])


def _mean_scores(run: Run, order: Sequence[str]) -> list[Block]:
    """Show what each judge that scores gave each model's held-out answers on average."""
    by_judge = {str(name): scores for name, scores in (run.get("mean_scores") or {}).items() if scores}
    if not by_judge:
        return []
    found = dict.fromkeys(model for scores in by_judge.values() for model in scores)
    models = [*(model for model in order if model in found), *(model for model in found if model not in order)]
    rows = [[shown_model(model), *(number(scores.get(model)) for scores in by_judge.values())] for model in models]
    caption = "Mean score of the held-out answers, by every judge that gives scores; each has a scale of its own."
    return [Table(caption, ["Model", *by_judge], rows)]


def judge_blocks(judges: Sequence[Judge]) -> list[Block]:
    """Say who judged; loudly where the policy was trained against a judge."""
    if not judges:
        return []
    against = [judge.name for judge in judges if judge.trained_against]
    blocks: list[Block] = []
    if against:
        blocks.append(Text(caution(listed(against)), tone="caution"))
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
    caption = f"Win rate of the row's model over the column's{_by(judge)}, with 95 % intervals. "
    caption += "Bold with ▲: better, the whole interval above 0.5; bold with ▼: worse, all of it below."
    return Table(caption, ["A over B", *(shown_model(model) for model in models)], rows)


def _cell(pair: Mapping[str, Any]) -> Cell:
    """Shade by the distance from 0.5, up or down; mark what the interval tells from 0.5, for eyes without colours."""
    value = float(pair["win_rate"])
    low, high = (float(pair[end]) if is_number(pair.get(end)) else 0.5 for end in ("low", "high"))
    mark = " ▲" if low > 0.5 else " ▼" if high < 0.5 else ""
    style = f"shaded {'less' if value < 0.5 else 'more'}{' clear' if mark else ''}"
    return Cell(number(value, 2) + mark, style, min(1.0, 2 * abs(value - 0.5)), interval(pair, 2))


def _pairs(entries: Entries, judge: Judge) -> Table:
    columns = [
        "A over B", "Win rate", "At equal length", "Wins", "Ties", "Losses", "Prompts", "Unreadable", "Left out",
        "Mean length of A", "Mean length of B", "Flips",
    ]  # fmt: skip
    rows = [
        [
            f"{shown_model(entry['a'])} over {shown_model(entry['b'])}",
            rate(entry),
            rate(entry.get("length_controlled")),
            *(number(entry.get(key)) for key in ("wins", "ties", "losses", "num_pairs", "unreadable")),
            number(sum((entry.get("left_out") or {}).values())),
            *(number(entry.get(key), 1) for key in ("mean_length_a", "mean_length_b")),
            number(entry.get("flip_rate")),
        ]
        for entry in entries
    ]
    caption = (
        f"Every pair{_by(judge)}. Lengths are in characters; flips are the share of verdicts that changed when the "
        "answers changed places; left out are samples without a score or a partner, and prompts that one side lacks."
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
