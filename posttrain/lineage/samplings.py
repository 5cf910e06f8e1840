"""The samples of a prompt: who drew them, how each was scored and ranked, and what was decided on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from posttrain.lineage.graph import Graph, Node

Row = dict[str, Any]
Rows = Mapping[str, Mapping[str, list[Row]]]
Key = tuple[int | None, str | None]
"""What names a sample among those that were scored together: its index and the model that drew it."""

SAMPLE_COLUMNS = ("sample_index", "seed", "finish_reason", "num_tokens", "completion")
LABEL_COLUMNS = ("strength", "drop_reason")


def samplings(graph: Graph, rows: Rows, sample_index: int | None) -> list[dict[str, Any]]:
    """Return each drawing of samples with, for each sample, its scores, ranks and decisions.

    Args:
        graph: The run.
        rows: The prompt's rows, by artifact and file.
        sample_index: Of the only sample to tell of; None for all.
    """
    return [_sampling(graph, node, rows, sample_index) for node in _of_stages(graph, rows, "sample")]


def is_of_sample(row: Mapping[str, Any], sample_index: int | None) -> bool:
    """Tell whether a row belongs to the sample that is followed; rows of the whole prompt always do."""
    if sample_index is None:
        return True
    indices = [
        row[key] for key in ("sample_index", "chosen_sample_index", "rejected_sample_index") if row.get(key) is not None
    ]
    indices += [index for index in row.get("sample_indices") or () if index is not None]
    return not indices or sample_index in indices


def _sampling(graph: Graph, node: Node, rows: Rows, sample_index: int | None) -> dict[str, Any]:
    scored = [
        item for item in _of_stages(graph, rows, "score", "verify") if node.reference in item.inputs("completions")
    ]
    labelled = [item for item in _of_stages(graph, rows, "label") if node.reference in item.inputs("completions")]
    selected = [
        item
        for item in _of_stages(graph, rows, "select")
        if any(scores.reference in item.inputs("scored") for scores in scored)
    ]
    models = node.inputs("model")
    samples = []
    for row in rows[node.reference].get("completions.jsonl", []):
        if not is_of_sample(row, sample_index):
            continue
        key = row.get("sample_index"), row.get("model")
        scores = [_score(graph, item, rows, key) for item in scored]
        decisions = [decision for item in selected for decision in _selected(graph, item, rows, key)]
        decisions += [decision for item in labelled for decision in _labelled(graph, item, rows, key)]
        told = {name: row[name] for name in SAMPLE_COLUMNS if name in row}
        samples.append(told | {"scores": [item for item in scores if item], "decisions": decisions})
    return {
        **node.place,
        "round": node.config.get("round"),
        "model": graph.name_of(models[0]) if models else (node.config.get("endpoint") or {}).get("model"),
        "sampling": node.config.get("sampling"),
        "rejects": [row.get("reason") for row in rows[node.reference].get("rejects.jsonl", [])],
        "scored_by": [{**item.place, "by": _scorer(graph, item)} for item in scored],
        "selected_by": [{**item.place, "selection": item.config.get("selection")} for item in selected],
        "labelled_by": [{**item.place, "annotator": item.config.get("annotator")} for item in labelled],
        "samples": samples,
    }


def _of_stages(graph: Graph, rows: Rows, *stages: str) -> list[Node]:
    return [graph.nodes[reference] for reference in rows if graph.nodes[reference].stage in stages]


def _scorer(graph: Graph, node: Node) -> str | None:
    models = node.inputs("reward_model")
    if models:
        return graph.name_of(models[0])
    judge = node.config.get("judge") or {}
    return judge.get("function") or judge.get("kind")  # a function counts by its content, so its name may be left out


def _score(graph: Graph, node: Node, rows: Rows, key: Key) -> dict[str, Any] | None:
    """Return a sample's score and its rank, 1 the best; equal scores share a rank."""
    held = rows[node.reference].get("scored.jsonl", [])
    own = next((row for row in held if (row.get("sample_index"), row.get("model")) == key), None)
    if own is None:
        return None
    score, scores = own.get("score"), [row["score"] for row in held if row.get("score") is not None]
    rank = None if score is None else 1 + sum(other > score for other in scores)
    entry = {**node.place, "by": _scorer(graph, node), "score": score, "rank": rank, "of": len(scores)}
    return entry | {name: own[name] for name in ("reason", "error") if own.get(name)}


def _selected(graph: Graph, node: Node, rows: Rows, key: Key) -> Iterator[dict[str, Any]]:
    """Yield what a selection decided on a sample: SFT row, chosen, rejected, or dropped and why."""
    files = rows[node.reference]
    for row in files.get("sft.jsonl", []):
        if (row.get("sample_index"), row.get("model")) == key:
            yield {**node.place, "decision": "sft"}
    yield from _sides(graph, node, files.get("pairs.jsonl", []), key)
    for row in files.get("dropped.jsonl", []):
        if (row.get("sample_index"), row.get("model")) == key:
            yield {**node.place, "decision": "dropped", "drop_reason": row.get("drop_reason")}


def _labelled(graph: Graph, node: Node, rows: Rows, key: Key) -> Iterator[dict[str, Any]]:
    """Yield what an annotation decided on a sample; `other` is None where the other answer was edited."""
    files = rows[node.reference]
    yield from _sides(graph, node, files.get("preferences.jsonl", []), key)
    for row in files.get("dropped.jsonl", []):
        if (row.get("sample_index"), row.get("model")) == key:
            yield {**node.place, "decision": "dropped", "drop_reason": row.get("drop_reason")}


def _sides(graph: Graph, node: Node, pairs: list[Row], key: Key) -> Iterator[dict[str, Any]]:
    for pair in pairs:
        for side, other in (("chosen", "rejected"), ("rejected", "chosen")):
            index, model = pair.get(f"{side}_sample_index"), pair.get(f"{side}_model", pair.get("model"))
            if index is not None and (index, model) == key:
                entry = {**node.place, "decision": side, "other": pair.get(f"{other}_sample_index")}
                writer = pair.get(f"{other}_model", pair.get("model"))
                entry["other_model"] = None if writer is None else graph.writers.get(writer, writer)
                entry["other_score"] = pair.get(f"{other}_score")
                if pair.get("chosen_edited"):
                    entry["other_is_edited"] = True
                yield entry | {name: pair[name] for name in ("margin", *LABEL_COLUMNS) if pair.get(name) is not None}
