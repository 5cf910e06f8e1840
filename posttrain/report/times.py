"""The section on the loop: what each round did, step by step, and where the time went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.report.blocks import MISSING, Block, Cell, Picture, Section, Table, duration, is_number, not_yet, share
from posttrain.report.charts import stacked_bar_chart

Run = Mapping[str, Any]
# The seven points of a round (posttrain/rounds.py), by how the labels of their stages go on after `round_N/`.
EVALUATE = "7. evaluate"
STEPS = {
    "1. annotate": ("annotate",),
    "2. reward model": ("reward_model",),
    "3. write prompts": ("prompts",),
    "4. sample": ("completions",),
    "5. score and select": ("scores", "gold", "select"),
    "6. train": ("sft", "dpo", "average", "single", "soup"),
    EVALUATE: ("gate", "drift"),
}
OTHER = "base models, the rest"


def time_section(run: Run) -> Section:
    """Show the loop as a table of steps by rounds with their times, and the same drawn."""
    stages = [stage for stage in run.get("stages") or [] if isinstance(stage, Mapping)]
    if not stages:
        stages = [{"name": name, "seconds": seconds} for name, seconds in (run.get("seconds") or {}).items()]
    if not stages:
        return Section("time", "The loop and its time", [not_yet("Stages")])
    table = _by_step(stages)
    blocks: list[Block] = []
    total = sum(sum(steps.values()) for steps in table.values())
    if total:
        bars = {place: {step: steps.get(step, 0.0) for step in _steps_in(table)} for place, steps in table.items()}
        ends = [duration(sum(steps.values())) for steps in bars.values()]
        drawing = stacked_bar_chart("time", "Seconds by round and step", bars, ends, "seconds")
        blocks += [Picture(drawing, _longest(table, total)), _loop_table(table)]
    waiting = [str(stage.get("name")) for stage in stages if stage.get("status") == "running"]
    if waiting:
        blocks.append(Table("Under way.", ["Stage"], [[name] for name in waiting]))
    blocks.append(_stages(stages))
    return Section("time", "The loop and its time", blocks)


def _by_step(stages: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Add the seconds up by round (or student, or before the rounds) and step."""
    table: dict[str, dict[str, float]] = {}
    for stage in stages:
        if is_number(stage.get("seconds")):
            place, step = place_of(str(stage.get("name")))
            steps = table.setdefault(place, {})
            steps[step] = steps.get(step, 0.0) + float(stage["seconds"])
    return table


def place_of(label: str) -> tuple[str, str]:
    """Tell of a stage's label the round or student that it belongs to, and the step."""
    first, _, rest = label.partition("/")
    if first == "students":
        first, _, rest = rest.partition("/")
    elif not first.startswith("round_"):
        return ("over all rounds" if first in ("ratings", "evaluation") else "before the rounds"), OTHER
    if "/eval/" in f"/{rest}":  # of checkpoints too: sft_checkpoint/eval/completions
        return first.replace("round_", "round "), EVALUATE
    step = next((step for step, starts in STEPS.items() if rest.startswith(starts)), OTHER)
    return first.replace("round_", "round "), step


def _steps_in(table: Mapping[str, Mapping[str, float]]) -> list[str]:
    found = {step for steps in table.values() for step in steps}
    return [step for step in (*STEPS, OTHER) if step in found]


def _longest(table: Mapping[str, Mapping[str, float]], total: float) -> str:
    steps: dict[str, float] = {}
    for by_step in table.values():
        for step, seconds in by_step.items():
            steps[step] = steps.get(step, 0.0) + seconds
    inside = {step: seconds for step, seconds in steps.items() if step != OTHER}
    text = f"{duration(total)} in all."
    if not inside:
        return text
    step = max(inside, key=lambda name: inside[name])
    return f"{text} Of the rounds' steps, “{step}” took most: {duration(steps[step])}, {share(steps[step] / total)}."


def _loop_table(table: Mapping[str, Mapping[str, float]]) -> Table:
    rounds = [place for place in table if place.startswith("round ")]
    most = max((seconds for place in rounds for seconds in table[place].values()), default=0.0)
    rows: list[list[Cell | str]] = []
    for step in _steps_in({place: table[place] for place in rounds}):
        cells = [table[place].get(step) for place in rounds]
        shown = [
            Cell(MISSING, "empty") if s is None else Cell(duration(s), "shaded", s / most if most else 0) for s in cells
        ]
        rows.append([step, *shown])
    others = [[place, duration(sum(steps.values()))] for place, steps in table.items() if place not in rounds]
    if not rows:
        return Table("Time.", ["Part", "Time"], others)
    return Table("The steps of a round and the time of each.", ["Step", *rounds], rows)


def _stages(stages: Sequence[Mapping[str, Any]]) -> Table:
    rows: list[list[Cell | str]] = [
        [
            str(stage.get("name")),
            duration(stage.get("seconds")),
            str(stage.get("status") or "finished"),
            Cell(str(stage.get("address") or MISSING), "code"),
        ]
        for stage in stages
    ]
    return Table(f"All {len(rows)} stages.", ["Stage", "Time", "Status", "Address"], rows, folded=True)
