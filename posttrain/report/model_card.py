"""The model card of an exported checkpoint: what it is, how good it was measured to be, what it learned from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from posttrain.core.errors import DataError
from posttrain.report.blocks import MISSING, number, plain_text, rate
from posttrain.report.judged import judge_sentence, resolved_recipe
from posttrain.report.setup import flatten

Run = Mapping[str, Any]


def model_card(run: Run, name: str) -> str:
    """Write the card, Markdown with the hub's front matter, for a model of a run.

    Args:
        run: as ``report --json`` gives it.
        name: ``best``, ``base``, ``teacher``, ``round_2``, or a student's name.

    Raises:
        DataError: the run has no round of that number.
    """
    model = best_model(run) if name == "best" else name
    parts = [
        _front_matter(run),
        f"# {_inline(_recipe_name(run))}: {_inline(name)}",
        _what_it_is(run, name, model),
        _win_rates(run, model),
        _data(run, model),
        _settings(run),
    ]
    return plain_text("\n\n".join(part for part in parts if part) + "\n")


def best_model(run: Run) -> str:
    """Name the newest promoted round, or the base where none was promoted."""
    promoted = [entry["round"] for entry in run.get("rounds") or [] if entry.get("promoted")]
    return f"round_{promoted[-1]}" if promoted else "base"


def _recipe_name(run: Run) -> str:
    recipe = run.get("recipe")
    return str(recipe.get("name", "run") if isinstance(recipe, Mapping) else recipe or "run")


def _base(run: Run) -> Mapping[str, Any]:
    base = resolved_recipe(run).get("base")
    return base if isinstance(base, Mapping) else {}


def _front_matter(run: Run) -> str:
    lines = ["library_name: transformers", "tags: [posttrain]"]
    if _base(run).get("kind") == "hub":
        lines.append(f"base_model: {json.dumps(_base(run)['repo'])}")
    return "\n".join(["---", *lines, "---"])


def _what_it_is(run: Run, name: str, model: str) -> str:
    base = _base(run)
    origin = base.get("repo") or base.get("path") or (f"a {base['kind']} model" if base.get("kind") else "not recorded")
    if base.get("revision"):
        origin += f" at {base['revision']}"
    lines = [f"- Base: {_inline(origin)}", f"- Recipe: {_inline(_recipe_name(run))}", f"- Model: {_inline(model)}"]
    entry = _round(run, model)
    if entry is not None and entry.get("reason"):
        lines.append(f"- Gate: {_inline(entry['reason'])}")
    if name == "best" and model == "base":
        lines.append("- No round was promoted: this is the base itself.")
    return "\n".join(lines)


def _round(run: Run, model: str) -> Mapping[str, Any] | None:
    if not model.startswith("round_"):
        return None
    for entry in run.get("rounds") or []:
        if f"round_{entry.get('round')}" == model:
            return entry
    there = ", ".join(f"round_{entry.get('round')}" for entry in run.get("rounds") or []) or "none yet"
    raise DataError(f"the run has no {model!r}; its rounds: {there}")


def _win_rates(run: Run, model: str) -> str:
    entry = _round(run, model) or {}
    measured = [
        ("the base", entry.get("win_rate_vs_base")),
        ("the best round before", entry.get("win_rate_vs_previous")),
    ]
    for student in run.get("students") or []:
        if student.get("name") == model:
            measured += [
                ("its own base", student.get("win_rate_vs_own_base")),
                ("its teacher", student.get("win_rate_vs_teacher")),
            ]
    rows = [
        [against, rate(result), rate(result.get("length_controlled")), number(result.get("num_pairs"))]
        for against, result in measured
        if result and result.get("win_rate") is not None
    ]
    parts = ["## Win rates", _table(["Over", "Win rate [95 %]", "At equal length [95 %]", "Prompts"], rows)]
    for rating in run.get("ratings") or []:
        if rating.get("model") == model:
            low, high = number(float(rating["low"]), 0), number(float(rating["high"]), 0)
            parts.append(f"Rating {number(float(rating['rating']), 0)} [{low}, {high}]; the base is 0.")
    judge = judge_sentence(run)
    parts.append(_inline(judge) if judge else "")
    return "\n\n".join(part for part in parts if part) if rows or len(parts) > 3 else ""


def _data(run: Run, model: str) -> str:
    """Count the data of every round up to the model's own; a student learned from them all."""
    rows = []
    keys = ["prompts", "completions", "kept", "dropped", "sft_rows", "pairs"]
    if model not in ("base", "teacher"):
        for entry in run.get("rounds") or []:
            counts = entry.get("data") or {}
            rows.append([f"round {entry.get('round')}", *(number(counts.get(key)) for key in keys)])
            if f"round_{entry.get('round')}" == model:
                break
    table = _table(["Round", "Prompts", "Completions", "Kept", "Dropped", "SFT rows", "Pairs"], rows)
    return f"## Data\n\n{table}" if rows else ""


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
