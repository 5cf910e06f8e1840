"""The section on training: what each training saw on its way, trainings of one kind in one drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.report.blocks import Block, Cell, Fold, Picture, Section, Table, is_number, not_yet, number
from posttrain.report.curves import panels

Run = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]
Points = list[tuple[float, float]]

# Heading of a panel, and the logged names that it may draw. Log-probs, rewards and KL are in nats.
PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss", ("loss", "train_loss")),
    ("accuracy", ("accuracy", "rewards/accuracies", "mean_token_accuracy")),
    ("margin", ("margin", "rewards/margins")),
    ("log-prob per token, chosen", ("logps_per_token/chosen",)),
    ("log-prob per token, rejected", ("logps_per_token/rejected",)),
    ("KL per token", ("kl", "objective/kl")),
    ("length of chosen (tokens)", ("length/chosen",)),
    ("length of rejected (tokens)", ("length/rejected",)),
    ("length (tokens)", ("length", "mean_length", "completions/mean_length")),
    ("mean score", ("mean_reward",)),
)
# What a person looks at when something went wrong.
FURTHER: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss, held out", ("eval_loss",)),
    ("accuracy, held out", ("eval_accuracy", "eval_rewards/accuracies")),
    ("loss, preference part", ("loss/preference",)),
    ("loss, NLL part", ("loss/nll",)),
    ("loss, divergence part", ("loss/divergence",)),
    ("implicit reward of chosen", ("rewards/chosen",)),
    ("implicit reward of rejected", ("rewards/rejected",)),
    ("log-prob, chosen", ("logps/chosen", "chosen_logprob")),
    ("log-prob, rejected", ("logps/rejected", "rejected_logprob")),
    ("lowest score", ("min_reward",)),
    ("highest score", ("max_reward",)),
    ("entropy", ("entropy",)),
    ("gradient norm", ("grad_norm",)),
    ("learning rate", ("learning_rate",)),
    ("tokens per second", ("tokens_per_second",)),
    ("share of peak FLOP/s", ("matmul_share",)),
)
KINDS = {"reward_model": "Reward models", "sft": "SFT", "dpo": "DPO"}
LOSS = {"loss": "loss"}
SIDES = {
    "logps_per_token/chosen": "chosen per token",
    "logps_per_token/rejected": "rejected per token",
    "kl": "KL",
}
MAX_POINTS = 200


def curves_section(run: Run) -> Section:
    """Show the logged numbers of trainings over their steps: DPO of the rounds open, the others folded."""
    blocks: list[Block] = []
    for kind, trainings in _by_kind(run.get("training") or {}).items():
        inner = _curves(kind, trainings)
        if inner:
            blocks += inner if kind == "DPO" else [Fold(f"{kind}. {_ends(trainings, LOSS)}", inner)]
    return Section("training", "Training", blocks or [not_yet("Training curves")])


def _by_kind(training: Mapping[str, Rows]) -> dict[str, dict[str, Rows]]:
    """Group trainings by what they are; within a kind each is named by its round or its student."""
    kinds: dict[str, dict[str, Rows]] = {}
    for label, rows in training.items():
        place, _, stage = str(label).rpartition("/")
        kind = KINDS.get(stage, stage or str(label))
        if place.startswith("students/"):
            kind += " of students"
        kinds.setdefault(kind, {})[place.removeprefix("students/").replace("round_", "round ") or str(label)] = rows
    order = ["DPO", "Reward models", "SFT"]
    return dict(sorted(kinds.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def _curves(kind: str, trainings: Mapping[str, Rows]) -> list[Block]:
    key = "training-" + "".join(char if char.isalnum() else "-" for char in kind.lower())
    blocks: list[Block] = []
    for suffix, among in (("", PANELS), ("-further", FURTHER)):
        charts = _charts(among, trainings)
        if charts:
            headings = ", ".join(heading for heading, _ in charts)
            drawing = panels(key + suffix, f"{kind}: {headings} over training steps", charts)
            caption = (
                f"{kind}. {_ends(trainings, LOSS | SIDES)}"
                if not suffix
                else f"{kind}, further numbers that were logged."
            )
            picture = Picture(drawing, caption)
            blocks.append(picture if not suffix else Fold(f"{kind}: further curves", [picture]))
    return [*blocks, _in_numbers(kind, trainings)] if blocks else []


def _in_numbers(kind: str, trainings: Mapping[str, Rows]) -> Table:
    """Put every curve into a line: where it began and ended, and its extremes, of all logged steps."""
    lines: list[list[Cell | str]] = []
    for _, names in (*PANELS, *FURTHER):
        for name in names:
            for training, rows in trainings.items():
                values = [float(row[name]) for row in rows if is_number(row.get(name))]
                if values:
                    ends = (values[0], values[-1], min(values), max(values))
                    lines.append([name, training, *(f"{value:.4g}" for value in ends)])
    columns = ["Logged as", "Training", "First", "Last", "Lowest", "Highest"]
    return Table(f"{kind} in numbers.", columns, lines, folded=True)


def _charts(
    among: Sequence[tuple[str, tuple[str, ...]]], trainings: Mapping[str, Rows]
) -> list[tuple[str, dict[str, Points]]]:
    charts = []
    for heading, names in among:
        for name in names:
            series = {training: points for training, rows in trainings.items() if (points := _points(rows, name))}
            if series:
                charts.append((heading, series))
    return charts


def _points(rows: Rows, name: str) -> Points:
    points = [
        (float(row.get("step", place)), float(row[name]))
        for place, row in enumerate(rows, start=1)
        if is_number(row.get(name)) and is_number(row.get("step", place))
    ]
    # A page does not need every step: every n-th and the last draw the same line.
    stride = -(-len(points) // MAX_POINTS) if points else 1
    return points[::stride] + (points[-1:] if stride > 1 and (len(points) - 1) % stride else [])


def _ends(trainings: Mapping[str, Rows], named: Mapping[str, str]) -> str:
    """Put where the trainings began and ended in words."""
    parts = []
    for training, rows in trainings.items():
        said = [
            f"{words} {number(values[0])}" + (f" → {number(values[-1])}" if len(values) > 1 else "")
            for name, words in named.items()
            if (values := [float(row[name]) for row in rows if is_number(row.get(name))])
        ]
        if said:
            parts.append(f"{training.replace('round', 'Round')}: {', '.join(said)}.")
    return " ".join(parts)
