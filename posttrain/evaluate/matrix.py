"""The win-rate matrix of a judge: every pair of models on the same prompts, and one rating for all of them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from posttrain.core.errors import DataError, Faults
from posttrain.evaluate.labels import name_fault
from posttrain.evaluate.pairing import completion_text, mean_length, mirrored, pair_scores
from posttrain.evaluate.rating import ratings
from posttrain.evaluate.win_rate import left_out, win_rate

Row = dict[str, Any]
Pair = tuple[str, str]
Verdicts = dict[Pair, list[Row]]
"""(A, B) to the verdicts on A against B."""

log = logging.getLogger(__name__)


def pairs_of(names: Sequence[str]) -> list[Pair]:
    """List every pair once, the later model first: (round_1, base), where base comes before round_1."""
    return [(later, earlier) for earlier, later in combinations(names, 2)]


def verdicts_of_scores(scored: Mapping[str, list[Row]]) -> Verdicts:
    """Give verdicts on every pair of models from the scores of their answers, averaged within the prompt.

    Args:
        scored: model → rows with `score`, as `pairing.pair_scores` takes them.
    """
    return {(a, b): pair_scores(scored[a], scored[b]) for a, b in pairs_of(list(scored))}


def verdicts_of_labels(
    labels: Mapping[int, Row], completions: Mapping[str, list[Row]], where: str
) -> tuple[Verdicts, Counter[str]]:
    """Sort people's labels by pair, turned so that the later model comes first.

    A label that says by content which models it is on (`model_a`, `model_b`) is left out where other models bear these
    names now, with a warning: what was said of a model that has been trained anew is not said of its successor.
    Lengths that a label brings are those of the very samples that were read; else they come from the answers.

    Args:
        labels: line of the file → row of `prompt_id`, `a`, `b` (names of models) and `preference`, 1 where a is better.
        completions: model → its answers, in the order of the run.
        where: the file, for messages.

    Returns:
        Verdicts by pair; and how many labels were left out, by the names of the models that are others now.

    Raises:
        DataError: a label on models or prompts that the run does not have; all of them are listed.
    """
    places = {name: place for place, name in enumerate(completions)}
    lengths = {name: _mean_lengths(rows) for name, rows in completions.items()}
    models = {name: {row.get("model") for row in rows} - {None} for name, rows in completions.items()}
    faults, left_out = Faults(where), Counter[str]()
    verdicts: Verdicts = {}
    for number, label in labels.items():
        a, b, prompt_id = str(label.get("a")), str(label.get("b")), label["prompt_id"]
        if (fault := name_fault(label, places)) is not None:
            faults.add(f"line {number}: {fault}")
            continue
        said = {a: label.get("model_a"), b: label.get("model_b")}
        if others := [name for name in (a, b) if said[name] is not None and said[name] not in models[name]]:
            left_out[" and ".join(others)] += 1
            continue
        if any(prompt_id not in lengths[name] for name in (a, b)):
            faults.add(f"line {number}: prompt_id {prompt_id!r} is no held-out prompt of this run")
            continue
        told = {key: value for key, value in label.items() if key not in ("a", "b")}
        if places[a] < places[b]:
            a, b, told = b, a, mirrored(told)
        sides = {"length_a": lengths[a][prompt_id], "length_b": lengths[b][prompt_id]}
        verdicts.setdefault((a, b), []).append(sides | told)
    faults.raise_if_any(DataError)
    for names, number in left_out.items():
        log.warning("%s: %d labels are on another %s than this run's and are left out", where, number, names)
    return {pair: verdicts[pair] for pair in pairs_of(list(completions)) if pair in verdicts}, left_out


def judge_pairs(
    completions: Mapping[str, list[Row]],
    compare: Callable[[list[Row], list[Row]], list[Row]],
    known: Mapping[Pair, list[Row]],
    wanted: Callable[[str], bool],
) -> Iterable[tuple[Pair, list[Row]]]:
    """Give verdicts pair by pair: those that are known already as they are, the others by the judge.

    Args:
        completions: model → its answers, in the order of the run.
        compare: gives verdicts on the first model's rows against the second's.
        known: verdicts of this judge on some pairs, in either direction.
        wanted: whether a prompt is judged, by its id.
    """
    shown = {name: [row for row in rows if wanted(row["prompt_id"])] for name, rows in completions.items()}
    for a, b in pairs_of(list(completions)):
        if (a, b) in known:
            yield (a, b), known[a, b]
        elif (b, a) in known:
            yield (a, b), [mirrored(row) for row in known[b, a]]
        else:
            yield (a, b), compare(shown[a], shown[b])


def matrix_entries(verdicts: Verdicts, answers: Mapping[str, Sequence[Row]] | None = None) -> list[Row]:
    """Give the win rate of each pair: `a`, `b`, and what `win_rate.win_rate` says.

    A pair of which no verdict was readable has `win_rate`, `low`, `high` None, and its unreadable verdicts counted.

    Args:
        answers: model → its answers, so that prompts which only one of a pair answered are counted.
    """
    prompts = {name: {row["prompt_id"] for row in rows} for name, rows in (answers or {}).items()}
    none: set[str] = set()
    return [
        {"a": a, "b": b, **_rate(rows, _alone(prompts.get(a, none), prompts.get(b, none)))}
        for (a, b), rows in verdicts.items()
    ]


def _alone(of_a: set[str], of_b: set[str]) -> tuple[int, int]:
    return len(of_a - of_b), len(of_b - of_a)


def matrix_ratings(verdicts: Verdicts, anchor: str, seed: int, num_bootstrap: int) -> list[Row]:
    """Rate all models that a chain of readable pairs links to the anchor; nobody where nothing does."""
    readable = {pair: rows for pair, rows in verdicts.items() if any(row["preference"] is not None for row in rows)}
    reached = {anchor}
    while more := {name for pair in readable if reached & set(pair) for name in pair} - reached:
        reached |= more
    linked = {pair: rows for pair, rows in readable.items() if reached.issuperset(pair)}
    return ratings(linked, anchor, seed, num_bootstrap) if linked else []


def _rate(rows: list[Row], alone: tuple[int, int]) -> Row:
    if any(row["preference"] is not None for row in rows):
        return win_rate(rows, alone)
    nothing = dict.fromkeys(("win_rate", "low", "high"), None)
    counts: Row = {"num_pairs": 0, "wins": 0, "ties": 0, "losses": 0, "unreadable": len(rows)}
    counts["left_out"] = left_out(rows, alone)
    return {**nothing, **counts, "length_controlled": nothing, "mean_length_a": None, "mean_length_b": None}


def _mean_lengths(rows: list[Row]) -> dict[str, float | None]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        completion_text(row)
        groups.setdefault(row["prompt_id"], []).append(row)
    return {prompt_id: mean_length(group) for prompt_id, group in groups.items()}
