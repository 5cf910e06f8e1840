"""The model card of an exported checkpoint: what it is, how good it was measured to be, what it learned from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from posttrain.evaluate.gate import caution
from posttrain.report.blocks import MISSING, interval, listed, number, plain_text, rate
from posttrain.report.card_data import base_of, best_model, front_matter, measured, names_of, recipe_name, round_of
from posttrain.report.drift import MEASURES, harness_settings
from posttrain.report.judged import judge_sentence, judges_of, resolved_recipe
from posttrain.report.setup import flatten

Run = Mapping[str, Any]


def model_card(run: Run, name: str) -> str:
    """Write the card, Markdown with the hub's front matter, for a model of a run.

    Its numbers are those of ``report --json``; the win rates and benchmarks stand in the front matter too, as the
    hub's ``model-index``.

    Args:
        run: as ``report --json`` gives it.
        name: ``best``, ``base``, ``teacher``, ``round_2``, ``round_2/sft``, or a student's name.

    Raises:
        DataError: the run has no round of that number.
    """
    model = best_model(run) if name == "best" else str((round_of(run, name) or {}).get("same_as") or name)
    parts = [
        front_matter(run, model),
        f"# {_inline(recipe_name(run))}: {_inline(name)}",
        _what_it_is(run, name, model),
        _win_rates(run, model),
        _ratings(run, model),
        _drift(run, model),
        _benchmarks(run, model),
        _data(run, model),
        _lineage(run, model),
        _settings(run),
    ]
    return plain_text("\n\n".join(part for part in parts if part) + "\n")


def _what_it_is(run: Run, name: str, model: str) -> str:
    base = base_of(run)
    origin = base.get("repo") or base.get("path") or (f"a {base['kind']} model" if base.get("kind") else "not recorded")
    if base.get("revision"):
        origin += f" at {base['revision']}"
    lines = [f"- Base: {_inline(origin)}", f"- Recipe: {_inline(recipe_name(run))}", f"- Model: {_inline(model)}"]
    entry = round_of(run, model)
    if entry is not None and entry.get("reason"):
        lines.append(f"- Gate: {_inline(entry['reason'])}")
    if name == "best" and model == "base":
        lines.append("- No round was promoted: this is the base itself.")
    return "\n".join(lines)


def _win_rates(run: Run, model: str) -> str:
    rows = [
        [
            against,
            judge or MISSING,
            rate(result),
            rate(result.get("length_controlled")),
            number(result.get("num_pairs")),
            number(result.get("mean_length_a"), 1),
            number(result.get("mean_length_b"), 1),
        ]
        for against, judge, result in measured(run, model)
    ]
    if not rows:
        return ""
    columns = ["Over", "Judge", "Win rate [95 %]", "At equal length [95 %]", "Prompts", "Own length", "Other's length"]
    against = [judge for judge in judges_of(run) if judge.trained_against]
    said = [None if any(judge.main for judge in against) else judge_sentence(run)]
    said += [caution(listed([judge.name for judge in against]))] if against else []
    return "\n\n".join(["## Win rates", _table(columns, rows), *(_inline(sentence) for sentence in said if sentence)])


def _ratings(run: Run, model: str) -> str:
    by_judge = run.get("ratings_by_judge") or {"": run.get("ratings") or []}
    lines = [
        f"Rating {number(float(entry['rating']), 0)} {interval(entry, 0)}"
        + (f" by {_inline(judge)}" if judge else "")
        + "; the base is 0."
        for judge, entries in by_judge.items()
        for entry in entries
        if entry.get("model") in names_of(run, model)
    ]
    return "\n".join(f"- {line}" for line in lines)


def _drift(run: Run, model: str) -> str:
    rows = [
        [
            MEASURES.get(str(entry.get("measure")), str(entry.get("measure"))),
            number(entry.get("value")),
            number(entry.get("threshold")),
            "ALARM" if entry.get("alarm") else "within",
        ]
        for entry in run.get("drift") or []
        if f"round_{entry.get('round')}" == model
    ]
    return f"## Drift from the base\n\n{_table(['Measure', 'Value', 'Threshold', ''], rows)}" if rows else ""


def _benchmarks(run: Run, model: str) -> str:
    rows = [
        [entry.get("task"), entry.get("metric"), harness_settings(entry) or MISSING, number(entry.get("value")),
         number(entry.get("stderr"))]
        for entry in run.get("harness") or []
        if entry.get("model") in names_of(run, model)
    ]  # fmt: skip
    columns = ["Task", "Metric", "Asked", "Value", "Standard error"]
    return f"## Benchmarks\n\n{_table(columns, rows)}" if rows else ""


def _data(run: Run, model: str) -> str:
    """Count the data of every round up to the model's own; a student learned from them all."""
    rows = []
    keys = ["prompts", "completions", "kept", "dropped", "sft_rows", "pairs"]
    if model not in ("base", "teacher"):
        for entry in run.get("rounds") or []:
            counts = entry.get("data") or {}
            rows.append([f"round {entry.get('round')}", *(number(counts.get(key)) for key in keys)])
            if f"round_{entry.get('round')}" == model.partition("/")[0]:
                break
    table = _table(["Round", "Prompts", "Completions", "Kept", "Dropped", "SFT rows", "Pairs"], rows)
    return f"## Data\n\n{table}" if rows else ""


def _lineage(run: Run, model: str) -> str:
    """Count the rows behind a round's model by the source of their prompts: SFT so far, DPO of its own."""
    if round_of(run, model) is None:
        return ""
    last = int(model.removeprefix("round_"))
    sft: Counter[str] = Counter()
    pairs: Counter[str] = Counter()
    for entry in run.get("trained_on") or []:
        if entry["round"] <= last:
            sft[entry["source"]] += entry["sft_rows"]
        if entry["round"] == last:
            pairs[entry["source"]] += entry["pairs"]
    rows = [[source, number(count), number(pairs[source])] for source, count in sorted(sft.items())]
    columns = ["Prompts from", f"SFT rows, rounds 1 to {last}", f"Pairs, round {last}"]
    return f"## What it was trained on\n\n{_table(columns, rows)}" if rows else ""


def _settings(run: Run) -> str:
    parts = []
    for title, columns, values in (
        ("Training settings", ("Field", "Value"), list(flatten(resolved_recipe(run).get("train") or {}, "train"))),
        ("Seeds", ("Field", "Seed"), list(flatten(run.get("seeds") or {}))),
        ("Versions", ("What", "Version"), list(flatten(run.get("versions") or {}))),
    ):
        rows = [[name, value if isinstance(value, str) else json.dumps(value)] for name, value in values if value != {}]
        if rows:
            parts.append(f"## {title}\n\n{_table(columns, rows)}")
    return "\n\n".join(parts)


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    if len(lines) == 2:
        return "Not measured."
    return "\n".join("| " + " | ".join(_inline(cell) for cell in line) + " |" for line in lines)


def _inline(value: object) -> str:
    """Write a value so that it cannot break a table or bring HTML along."""
    text = " ".join(str(value).split()) or MISSING
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
