"""The top of the page: what came out, in a handful of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain.kept import is_itself
from posttrain.report.blocks import MISSING, Block, Card, Cards, Section, Text, duration, is_number, number, rate
from posttrain.report.card_data import best_model, round_of
from posttrain.report.drift import alarms
from posttrain.report.judged import judges_of, shown_model

Run = Mapping[str, Any]


def overview_section(run: Run) -> Section:
    """Say what the run came to: the best model, the gate, the alarms, the time."""
    cards = [_best(run), *_student(run), _gate(run), _alarms(run), _data(run), _time(run)]
    state = str(run.get("state") or "")
    blocks: list[Block] = []
    if state and state != "finished":
        blocks.append(Text(f"This run is {state}: what is not there yet says so below.", tone="caution"))
    if lost := run.get("lost"):
        told = f"{len(lost)} artifacts of this run were gone when this page was made, and it leaves them out: "
        blocks.append(Text(f"{told}{', '.join(lost)}. Run the recipe again to have them made anew.", tone="caution"))
    blocks.append(Cards([card for card in cards if card is not None]))
    return Section("overview", "At a glance", blocks)


def _best(run: Run) -> Card:
    best = best_model(run)
    if best == "base":
        return Card("Best model", "base", "no round has been promoted")
    won = (round_of(run, best) or {}).get("win_rate_vs_base") or {}
    judge = next((judge for judge in judges_of(run) if judge.main), None)
    by = f", by {judge.name}" if judge else ""
    note = f"wins {rate(won)} against the base{by}" if rate(won) != MISSING else "not compared with the base"
    return Card("Best model", shown_model(best), note, "good")


def _student(run: Run) -> list[Card]:
    students = [
        student
        for student in run.get("students") or []
        if is_number((student.get("win_rate_vs_own_base") or {}).get("win_rate"))
    ]
    if not students:
        return []
    first = max(students, key=lambda student: student["win_rate_vs_own_base"]["win_rate"])
    return [Card("Best gain of a student", rate(first["win_rate_vs_own_base"]).partition(" ")[0],
                 f"{first.get('name')} over its own base")]  # fmt: skip


def _gate(run: Run) -> Card | None:
    rounds = run.get("rounds") or []
    if not rounds:
        return None
    kept = [entry for entry in rounds if is_itself(rounds, entry)]
    promoted = sum(entry.get("promoted") is True for entry in rounds if entry not in kept)
    held = sum(entry.get("promoted") is False for entry in rounds if entry not in kept)
    open_yet = len(rounds) - promoted - held - len(kept)
    note = f"{held} held" + (f", {open_yet} open" if open_yet else "")
    note += f", {len(kept)} kept the weights of the best before" if kept else ""
    return Card("Rounds promoted", f"{promoted} of {len(rounds)}", note, "bad" if held else "plain")


def _alarms(run: Run) -> Card | None:
    entries = run.get("drift") or []
    if not entries:
        return None
    raised = alarms(run)
    note = ", ".join(dict.fromkeys(f"round {entry.get('round')}" for entry in raised)) or "all measures within bounds"
    return Card("Drift alarms", str(len(raised)), note, "bad" if raised else "good")


def _data(run: Run) -> Card | None:
    counts = [entry.get("data") or {} for entry in run.get("rounds") or []]
    pairs = [count["pairs"] for count in counts if is_number(count.get("pairs"))]
    if not pairs:
        return None
    samples = sum(count["completions"] for count in counts if is_number(count.get("completions")))
    return Card("Preference pairs", number(sum(pairs)), f"from {number(samples)} samples")


def _time(run: Run) -> Card | None:
    seconds = [stage["seconds"] for stage in run.get("stages") or [] if is_number(stage.get("seconds"))]
    return Card("Time", duration(sum(seconds)), f"in {len(seconds)} stages") if seconds else None
