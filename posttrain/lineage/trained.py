"""Which checkpoints a row trained, directly and by way of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.lineage.answers import TRAINING_FILES, makes_model
from posttrain.lineage.graph import Graph
from posttrain.lineage.samplings import Row, is_of_sample


def trained(
    graph: Graph, rows: Mapping[str, Mapping[str, list[Row]]], sample_index: int | None
) -> list[dict[str, Any]]:
    """Return the training stages that were handed rows of the prompt, with their number, and where these came from."""
    entries = []
    for node in graph.nodes.values():
        if node.stage not in TRAINING_FILES:
            continue
        name, file = TRAINING_FILES[node.stage]
        held = {
            reference: sum(is_of_sample(row, sample_index) for row in rows.get(reference, {}).get(file, []))
            for reference in node.inputs(name)
        }
        if any(held.values()):
            given = [
                graph.nodes[reference].place | {"file": file, "rows": count}
                for reference, count in held.items()
                if count
            ]
            entries.append(
                node.place | {"model": graph.name_of(node.reference), "rows": sum(held.values()), "from": given}
            )
    return entries


def by_way_of(graph: Graph, direct: Sequence[str]) -> list[dict[str, Any]]:
    """Return the other models of the run that these had a part in.

    `how` is `weights` for a model that goes on from one of them, else `data`: one of them, or a model made from one,
    wrote, scored or labelled what it learned from. `from` names those of the first that it depends on.
    """
    entries = []
    for node in graph.nodes.values():
        if not makes_model(node.stage) or node.reference in direct:
            continue
        by_weights = [item.reference for item in graph.weights_of(node.reference) if item.reference in direct]
        by_any = [item.reference for item in graph.before(node.reference) if item.reference in direct]
        if by_any:
            entry = {"model": graph.name_of(node.reference), "how": "weights" if by_weights else "data"}
            sources = by_weights or by_any
            entries.append(node.place | entry | {"from": [graph.name_of(reference) for reference in sources]})
    return entries
