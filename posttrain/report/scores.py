"""Sections on scores: what K samples were worth, and how each round's scores were spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.report.blocks import Block, Picture, Section, Table, Text, is_number, not_yet, number, share
from posttrain.report.curves import doubling_charts, histogram_charts

Run = Mapping[str, Any]
Line = list[tuple[float, float]]
KINDS = {"count": "all samples", "kept": "kept for SFT", "rejected": "rejected in pairs"}


def best_of_k_section(run: Run) -> Section:
    """Show what picking the best of K samples was worth, as K doubles: in gold score where there is one."""
    gold = _gold_lines(run.get("best_of_k_gold") or {})
    curve = run.get("best_of_k") or {}
    series = curve if any(isinstance(value, Mapping) for value in curve.values()) else {"best of K": curve}
    lines = {str(name): line for name, points in series.items() if (line := _line(points))}
    if not lines and not gold:
        return Section("best-of-k", "Best of K", [not_yet("Best-of-K curve")])
    blocks: list[Block] = []
    if gold:
        drawing = doubling_charts(
            "best-of-k-gold", "Gold score of the best of K samples", gold, ("K", "mean gold score")
        )
        blocks.append(Picture(drawing, " ".join(_worth(heading, lines) for heading, lines in gold)))
        blocks.append(_table("Gold score by K.", {f"{h}, {n}": line for h, ls in gold for n, line in ls.items()}))
    else:
        blocks.append(not_yet("Gold scores of samples (they want a verifier as the judge of the evaluation)"))
    for name, failure in (run.get("gold_failures") or {}).items():
        blocks.append(
            Text(f"Round {name}: gold scores stop early, and stand for the prompts before. {failure}", "note")
        )
    if lines:
        drawing = doubling_charts(
            "best-of-k", "Mean score of the best of K samples", [("", lines)], ("K, samples per prompt", "mean score")
        )
        caption = "The reward model's own score of its pick. It rises with K by itself, and says nothing about gold."
        blocks += [Picture(drawing, caption), _table("Mean score by K.", lines)]
    return Section("best-of-k", "Best of K", blocks)


def _line(points: object) -> Line:
    if not isinstance(points, Mapping):
        return []
    return sorted((float(k), float(score)) for k, score in points.items() if is_number(score) and float(k) > 0)


def _gold_lines(curves: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, dict[str, Line]]]:
    found = []
    for name, entry in curves.items():
        lines = {"best there is": _line(entry.get("oracle")), "reward model's pick": _line(entry.get("picked"))}
        lines = {label: line for label, line in lines.items() if line}
        if lines:
            found.append((f"round {name}", lines))
    return found


def _worth(heading: str, lines: Mapping[str, Line]) -> str:
    """Say what the reward model got of what there was to get."""
    picked, oracle = lines.get("reward model's pick"), lines.get("best there is")
    if not picked or not oracle or len(picked) < 2:
        return ""
    (_, first), (k, last), best = picked[0], picked[-1], oracle[-1][1]
    text = f"{heading.capitalize()}: the pick among {k:g} is worth {number(last)}, one sample {number(first)}"
    if last <= first or best <= first:
        return text + ": no gain."
    return text + f", {share((last - first) / (best - first))} of what could be won."


def _table(caption: str, lines: Mapping[str, Line]) -> Table:
    ks = sorted({k for line in lines.values() for k, _ in line})
    rows = [[name, *(number(dict(line).get(k)) for k in ks)] for name, line in lines.items()]
    return Table(caption, ["Scores of", *(f"K = {k:g}" for k in ks)], rows, folded=True)


def rewards_section(run: Run) -> Section:
    """Show how each round's scores were spread: all samples, those kept for SFT, the rejected side of pairs."""
    rounds = {str(name): bins for name, bins in (run.get("rewards") or {}).items() if bins}
    if not rounds:
        return Section("rewards", "Reward distributions", [not_yet("Reward distributions")])
    charts = [(f"round {name}", _edges(bins), _shares(bins)) for name, bins in rounds.items()]
    drawing = histogram_charts("rewards", "Scores by round: all samples, kept, rejected", charts, "score")
    middles = [
        [f"round {name}", *(_median(bins, kind) for kind in KINDS), number(int(sum(bin["count"] for bin in bins)))]
        for name, bins in rounds.items()
    ]
    caption = (
        "Grey: all samples. Every round has a reward model of its own, whose zero and scale are its own: compare the "
        "shapes, and how far kept and rejected lie apart, not the places of two rounds."
    )
    columns = ["Round", *(f"Median, {label}" for label in KINDS.values()), "Samples"]
    return Section(
        "rewards", "Reward distributions", [Picture(drawing, caption), Table("In numbers.", columns, middles)]
    )


def _edges(bins: Sequence[Mapping[str, float]]) -> list[float]:
    return [bin["low"] for bin in bins] + [bins[-1]["high"]]


def _shares(bins: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    found = {}
    for kind, label in KINDS.items():
        total = sum(bin.get(kind) or 0 for bin in bins)
        if total:
            found[label] = [(bin.get(kind) or 0) / total for bin in bins]
    return found


def _median(bins: Sequence[Mapping[str, float]], kind: str) -> str:
    """Give the median to within its bin, as the middle of that bin."""
    half, passed = sum(bin.get(kind) or 0 for bin in bins) / 2, 0.0
    for bin in bins if half else ():
        passed += bin.get(kind) or 0
        if passed >= half:
            return number((bin["low"] + bin["high"]) / 2, 1)
    return number(None)
