"""What a round's artifacts say about its data: counts of rows at every step, scores, gold scores, rows to browse."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from posttrain.core.files import read_jsonl
from posttrain.report.browsed import held_out_rows, sample_rows
from posttrain.report.choices import Key, key_of
from posttrain.runs import Run
from posttrain.store.artifacts import Artifact

Row = dict[str, Any]


def rows_of(artifact: Artifact | None, name: str) -> Iterator[Row]:
    """Yield the rows of an artifact's file one by one; none where either is missing."""
    path = Path() if artifact is None else artifact.path / name
    if path.is_file():
        yield from (row for _, row in read_jsonl(path))


def steps(found: Run, number: int) -> list[dict[str, Any]]:
    """Return the steps of a round's data in order: `step`, `unit`, `rows` that passed it, and `dropped` with reasons.

    Prompts become samples where they are sampled, K of each. Steps that have not run are left out.
    """
    label = f"round_{number}"
    clean, selected = found.metrics(f"{label}/prompts/clean"), found.metrics(f"{label}/select")
    sampled = [found.metrics(f"{label}/completions/{engine}") for engine in ("policy", "teacher")]
    out: list[dict[str, Any]] = []
    if clean:
        out.append(_step("written", "prompts", clean.get("num_written"), {}))
        out.append(_step("cleaned", "prompts", clean.get("num_prompts"), _reasons(clean)))
    done = [metrics for metrics in sampled if metrics]
    if done:
        refused = sum(metrics.get("num_rejects") or 0 for metrics in done)
        out.append(_step("sampled", "samples", sum(m["num_completions"] for m in done), {"prompts refused": refused}))
    if selected:
        out.append(_step("kept", "SFT rows", selected.get("sft_rows"), selected.get("drop_reasons") or {}))
        out.append(_step("paired", "pairs", selected.get("pairs"), _without_pair(selected)))
    for stage, unit in (("sft", "SFT rows"), ("dpo", "pairs")):
        trained = found.metrics(f"{label}/{stage}") or {}
        if trained.get("num_trained") is not None:
            out.append(_step("trained", unit, trained["num_trained"], trained.get("dropped") or {}))
    return out


def _without_pair(selected: Mapping[str, Any]) -> dict[str, int]:
    return {f"prompts: {reason}": count for reason, count in (selected.get("prompts_without_pair") or {}).items()}


def warnings(found: Run, number: int) -> list[str]:
    """Return what selecting and sampling warned of in a round."""
    label = f"round_{number}"
    said = list((found.metrics(f"{label}/select") or {}).get("warnings") or [])
    for engine in ("policy", "teacher"):
        said += (found.metrics(f"{label}/completions/{engine}") or {}).get("flags") or []
    return [str(line) for line in said]


def _step(name: str, unit: str, rows: int | None, dropped: Mapping[str, int]) -> dict[str, Any]:
    return {
        "step": name,
        "unit": unit,
        "rows": rows,
        "dropped": {key: count for key, count in dropped.items() if count},
    }


def _reasons(clean: Mapping[str, Any]) -> dict[str, int]:
    surplus = {"over num_prompts": clean["num_surplus"]} if clean.get("num_surplus") else {}
    return dict(clean.get("dropped") or {}) | surplus


def gold_scores(found: Run, number: int) -> dict[Key, float]:
    """Return the gold score of every sample of a round that has one."""
    rows = rows_of(found.artifact(f"round_{number}/gold"), "gold.jsonl")
    return {key_of(row): row["gold"] for row in rows if row.get("gold") is not None}


def scores(found: Run, number: int) -> dict[str, list[float]]:
    """Return a round's scores: of all samples, of those kept for SFT, and of the rejected side of pairs."""
    selected = found.artifact(f"round_{number}/select")
    return {
        "count": _finite(row.get("score") for row in scored_rows(found, number)),
        "kept": _finite(row.get("score") for row in rows_of(selected, "sft.jsonl")),
        "rejected": _finite(row.get("rejected_score") for row in rows_of(selected, "pairs.jsonl")),
    }


def _finite(values: Iterator[Any]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def scored_rows(found: Run, number: int) -> Iterator[Row]:
    """Yield a round's scored samples."""
    return rows_of(found.artifact(f"round_{number}/scores"), "scored.jsonl")


def samples(found: Run, number: int, gold: Mapping[Key, float]) -> list[Row]:
    """Return the rows of a round for the samples browser: training samples, then held-out answers."""
    pairs = rows_of(found.artifact(f"round_{number}/select"), "pairs.jsonl")
    return sample_rows(number, scored_rows(found, number), pairs, gold) + _held_out(found, number)


def _held_out(found: Run, number: int) -> list[Row]:
    """Read both sides of the round's first comparison with the base, or else with the best before."""
    for role in ("base", "previous"):
        artifact = found.artifact(f"round_{number}/eval/win_rate_vs_{role}")
        if artifact is None or artifact.manifest is None:
            continue
        sides = [_answers(found, artifact.manifest["asked"]["inputs"].get(side)) for side in ("a", "b")]
        a, b = artifact.metrics["names"]
        return held_out_rows(number, (a, b), sides[0], sides[1], rows_of(artifact, "verdicts.jsonl"))
    return []


def _answers(found: Run, reference: object) -> Iterator[Row]:
    """Yield the answers that a comparison read: scored where a score decided, bare where a judge read them."""
    stage, _, address = str(reference).partition("/")
    artifact = found.store.find_address(stage, address)
    for name in ("scored.jsonl", "completions.jsonl"):
        if (artifact.path / name).is_file():
            return rows_of(artifact, name)
    return iter(())


def trained_on(found: Run, number: int) -> list[dict[str, Any]]:
    """Count the rows that a round added to training, by the prompt's source and the model that answered."""
    selected = found.artifact(f"round_{number}/select")
    counts: dict[tuple[str, str], Counter[str]] = {}
    for kind in ("sft", "pairs"):
        for row in rows_of(selected, f"{kind}.jsonl"):
            key = (str(row.get("source") or "unknown"), str(row.get("model") or row.get("chosen_model") or "unknown"))
            counts.setdefault(key, Counter())[kind] += 1
    return [
        {"round": number, "source": source, "model": model, "sft_rows": count["sft"], "pairs": count["pairs"]}
        for (source, model), count in sorted(counts.items())
    ]
