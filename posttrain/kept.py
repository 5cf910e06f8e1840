"""Rounds that kept the weights of an earlier model: an average may choose one policy alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.evaluate.intervals import wilson_interval
from posttrain.model_names import known_model
from posttrain.runs import Run


def same_as(found: Run, number: int) -> str | None:
    """Name the earlier model that has a round's weights; None where the round has weights of its own, or none yet."""
    at = f"round_{number}"
    model = known_model(found, at)
    return None if model is None or model.name.startswith(f"{at}/") or model.name == at else model.name


def best_of(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Name the newest promoted round by the model whose weights it has; the base where none was promoted.

    Args:
        rounds: with `round`, `promoted` and, where a round kept earlier weights, `same_as`.
    """
    promoted = [entry for entry in rounds if entry.get("promoted")]
    return str(promoted[-1].get("same_as") or f"round_{promoted[-1]['round']}") if promoted else "base"


def is_itself(rounds: Sequence[Mapping[str, Any]], entry: Mapping[str, Any]) -> bool:
    """Tell whether a round has the weights of the best before, so that the gate compared a model with itself."""
    kept = entry.get("same_as")
    return kept is not None and kept == best_of([other for other in rounds if other["round"] < entry["round"]])


def kept_weights(entry: Mapping[str, Any]) -> str:
    """Say whose weights a round kept: `round 2 kept the weights of round 1`."""
    return f"round {entry['round']} kept the weights of {str(entry['same_as']).replace('_', ' ')}"


def decisions(found: Run) -> list[dict[str, Any]]:
    """Return each round's number, whether the gate promoted it, why, and whose weights it kept, if it did."""
    rounds: list[dict[str, Any]] = []
    for number in range(1, found.num_rounds + 1):
        gate = found.metrics(f"round_{number}/gate") or {}
        entry = {"round": number, "promoted": gate.get("promoted"), "reason": gate.get("reason")}
        if (other := same_as(found, number)) is not None:
            entry["same_as"] = other
            kept = kept_weights(entry).capitalize()
            alone = f"{kept}: there is no new model to compare."
            entry["reason"] = alone if is_itself(rounds, entry) else f"{kept}. {entry['reason'] or ''}".rstrip()
        rounds.append(entry)
    return rounds


def table_of_rounds(found: Run) -> str:
    """Return the table of rounds and students as text."""
    lines = [f"{'round':<22}{'over previous':>24}{'over base':>24}{'reward model, right of pairs':>36}  gate"]
    rounds = decisions(found)
    for entry in rounds:
        label = f"round_{entry['round']}"
        itself = is_itself(rounds, entry)
        decision = {True: "promoted", False: "held"}.get(entry["promoted"], "")  # type: ignore[arg-type]
        kept = kept_weights(entry) if "same_as" in entry else ""
        lines.append(
            f"{label:<22}{_rate(found, '' if itself else f'{label}/eval/win_rate_vs_previous')}"
            f"{_rate(found, f'{label}/eval/win_rate_vs_base')}"
            f"{_accuracy(found.metrics(f'{label}/reward_model') or {}):>36}  "
            f"{kept if itself else ', '.join(filter(None, (decision, kept)))}"
        )
    students = found.recipe["students"]
    if students:
        lines.append("")
        lines.append(f"{'student':<22}{'over own base':>24}{'over teacher':>24}")
    for student in students:
        label = f"students/{student['name']}/eval"
        lines.append(
            f"{student['name']:<22}{_rate(found, f'{label}/win_rate_vs_own_base')}"
            f"{_rate(found, f'{label}/win_rate_vs_teacher')}"
        )
    return "\n".join(lines)


def _accuracy(metrics: Mapping[str, Any]) -> str:
    """Write a reward model's accuracy with its interval and the held-out pairs that it was measured on."""
    accuracy, count = metrics.get("accuracy"), metrics.get("accuracy_pairs", metrics.get("num_held_out"))
    if accuracy is None:
        return "–"
    if not count:
        return f"{accuracy:.3f}"
    low, high = wilson_interval(accuracy, count)
    return f"{accuracy:.3f} [{low:.3f}, {high:.3f}] of {count:,}"


def _rate(found: Run, label: str) -> str:
    rate = found.metrics(label)
    if not rate:
        return f"{'–':>24}"
    return f"{rate['win_rate']:>10.3f} [{rate['low']:.3f}, {rate['high']:.3f}]"
