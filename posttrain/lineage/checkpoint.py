"""What trained a checkpoint: every row that is in its weights, by stage, round, source and model that wrote it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from posttrain.lineage.answers import makes_model
from posttrain.lineage.graph import Graph, Node


def tell_checkpoint(graph: Graph, name: str) -> dict[str, Any]:
    """Return what trained a model, as plain JSON.

    Keys:
        model, artifact: The name that was typed, and the model's artifact.
        trained: The training stages in its weights, the last one first: stage, rows and answers (a pair is one row
            and two answers), and the files that they came from.
        counts: The answers by stage, role, round, source and model that wrote them.
        total: Rows and answers over all stages; a row that trained twice counts twice.
        by_way_of: Models whose weights this one does not hold, and that wrote, scored or labelled what trained it, or
            did so for one of these; with the rows that trained them.
        lost: Artifacts of the run that are gone, and so are not told of.

    Raises:
        DataError: The run has no such model.
    """
    reference = graph.model_named(name)
    chain = [node for node in graph.weights_of(reference) if graph.training_data(node)]
    entries = [_trained(graph, node) for node in chain]
    return {
        "run": graph.run.name,
        "model": name,
        "artifact": reference,
        "weights": [graph.name_of(node.reference) for node in graph.weights_of(reference)]
        or [graph.name_of(reference)],
        "trained": entries,
        "counts": [count for node in chain for count in _counts(graph, node)],
        "total": {key: sum(entry[key] for entry in entries) for key in ("rows", "answers")},
        "by_way_of": _teachers(graph, reference),
        "lost": graph.run.lost,
    }


def _trained(graph: Graph, node: Node) -> dict[str, Any]:
    sources: list[dict[str, Any]] = [
        {
            **graph.nodes[reference].place,
            "file": index.data.name,
            "rows": index.num_training_rows,
            "answers": sum(kind[-1] for kind in index.kinds),
        }
        for reference, index in graph.training_data(node)
    ]
    totals = {key: sum(source[key] for source in sources) for key in ("rows", "answers")}
    return {**node.place, "model": graph.name_of(node.reference), **totals, "from": sources}


def _counts(graph: Graph, node: Node) -> list[dict[str, Any]]:
    counted: Counter[tuple[Any, ...]] = Counter()
    for _, index in graph.training_data(node):
        for role, source, number, model, answers in index.kinds:
            counted[role, number, source, model] += answers
    ordered = sorted(counted.items(), key=lambda item: tuple(str(part) for part in item[0]))
    return [
        {
            **node.place,
            "role": role,
            "round": number,
            "source": source,
            "model": model,
            "written_by": writer_name(graph, role, model),
            "answers": answers,
        }
        for (role, number, source, model), answers in ordered
    ]


def writer_name(graph: Graph, role: str, model: str | None) -> str:
    """Return who wrote an answer: a model of the run by its name, another by what names it, or a person."""
    if model is None:
        return "edited" if role == "edited" else "unknown"
    return graph.writers.get(model, model)


def _teachers(graph: Graph, reference: str) -> list[dict[str, Any]]:
    own = {node.reference for node in graph.weights_of(reference)}
    entries = []
    for node in graph.before(reference):
        if node.reference in own or not makes_model(node.stage):
            continue
        entry = _trained(graph, node)
        entry.pop("from")
        if entry["rows"]:  # no row of the run is in a base
            entries.append(entry | {"did": _did(graph, reference, node)})
    order = {item: position for position, item in enumerate(graph.nodes)}
    return sorted(entries, key=lambda entry: order[entry["artifact"]])


def _did(graph: Graph, reference: str, model: Node) -> list[str]:
    """Return what a model did on the way to another: names of the run's stages that used it, in order."""
    on_the_way = {item.reference for item in graph.before(reference)}
    users = (node for node in graph.nodes.values() if model.reference in node.inputs())
    return [node.label for node in users if node.reference in on_the_way]
