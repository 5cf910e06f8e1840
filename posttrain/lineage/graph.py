"""The artifacts of a run as a graph: which came from which, by what name, and the indexes of their rows."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from posttrain.core.errors import DataError
from posttrain.lineage.answers import TRAINING_FILES, makes_model
from posttrain.lineage.indexing import build_index, row_files
from posttrain.lineage.row_index import RowIndex, open_index
from posttrain.model_names import known_model, listed, model_names
from posttrain.runs import Run
from posttrain.store.artifacts import Artifact


@dataclass
class Node:
    """An artifact of a run.

    Attributes:
        label: The name under which the run came by it first.
        artifact: The artifact.
        labels: All names.
    """

    label: str
    artifact: Artifact
    labels: list[str] = field(default_factory=list)

    @property
    def reference(self) -> str:
        """Return `stage/address`."""
        return self.artifact.reference

    @property
    def stage(self) -> str:
        """Return the stage's name."""
        return self.artifact.stage

    @property
    def config(self) -> Mapping[str, Any]:
        """Return what was asked besides the inputs."""
        assert self.artifact.manifest is not None
        return self.artifact.manifest["asked"]["config"]

    def inputs(self, *names: str) -> list[str]:
        """Return the references of these inputs, of all where none is named."""
        assert self.artifact.manifest is not None
        given = self.artifact.manifest["asked"]["inputs"]
        values = [given[name] for name in (names or given) if name in given]
        return [item for value in values for item in (value if isinstance(value, list) else [value])]

    @property
    def place(self) -> dict[str, str]:
        """Return label, reference and stage, as every JSON object of a trace begins."""
        return {"label": self.label, "artifact": self.reference, "stage": self.stage}


class Graph:
    """A run's finished artifacts, in the order of the run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.nodes: dict[str, Node] = {}
        for label, artifact in run.artifacts():
            self.nodes.setdefault(artifact.reference, Node(label, artifact)).labels.append(label)
        self._names: dict[str, list[str]] = {}
        for label, name in run.record["names"].items():
            self._names.setdefault(name["reference"], []).append(label)

    @cached_property
    def indexes(self) -> dict[str, dict[str, RowIndex]]:
        """Return the index of every file of rows, by artifact and file name; those that are missing are built."""
        found: dict[str, dict[str, RowIndex]] = {}
        told = False
        for node in self.nodes.values():
            for data, sha256 in row_files(node.artifact):
                index = open_index(self.run.store.root, data, sha256)
                if index is None:
                    if not told and data.stat().st_size > 10_000_000:
                        print("building the index of rows, once …", file=sys.stderr, flush=True)
                        told = True
                    build_index(self.run.store.root, data, sha256)
                    index = open_index(self.run.store.root, data, sha256)
                    assert index is not None
                found.setdefault(node.reference, {})[data.name] = index
        return found

    def training_data(self, node: Node) -> list[tuple[str, RowIndex]]:
        """Return the reference and index of each file that a training stage learned from; of other stages none."""
        if node.stage not in TRAINING_FILES:
            return []
        name, file = TRAINING_FILES[node.stage]
        files = [(reference, self.indexes.get(reference, {}).get(file)) for reference in node.inputs(name)]
        return [(reference, index) for reference, index in files if index is not None]

    def starts_from(self, node: Node) -> list[str]:
        """Return the models whose weights a policy goes on from: none where the stage makes no policy."""
        return node.inputs("model", "models") if node.stage in ("sft", "dpo", "average") else []

    def weights_of(self, reference: str) -> list[Node]:
        """Return the stages whose training is in a model's weights, the last one first, its own included."""
        return self._reach(reference, self.starts_from)

    def before(self, reference: str) -> list[Node]:
        """Return all artifacts that this one depends on, itself included."""
        return self._reach(reference, Node.inputs)

    def _reach(self, reference: str, step: Any) -> list[Node]:
        seen: dict[str, Node] = {}
        waiting = [reference]
        while waiting:
            node = self.nodes.get(waiting.pop(0))
            if node is not None and node.reference not in seen:
                seen[node.reference] = node
                waiting += step(node)
        return list(seen.values())

    def name_of(self, reference: str) -> str:
        """Return what people call a model: base, round_1, round_1/sft, students/small, teacher."""
        labels = self._names.get(reference, [])
        for ending, kept in (("/policy", True), ("base/model", False)):
            for label in labels:
                if label.endswith(ending):
                    return label.removesuffix(ending) if kept else "base"
        return labels[0] if labels else reference

    @cached_property
    def writers(self) -> dict[str, str]:
        """Return the name of each model by what names it in rows: the content hash of its weights."""
        named: dict[str, str] = {}
        for node in self.nodes.values():
            index = self.indexes.get(node.reference, {}).get("completions.jsonl")
            models = node.inputs("model")
            if node.stage == "sample" and index is not None and models:
                named |= dict.fromkeys(index.models, self.name_of(models[0]))
        return named

    def model_named(self, name: str) -> str:
        """Return the reference of a model by the name that a person types.

        Raises:
            DataError: There is none; those that are there are listed.
        """
        names = self.run.record["names"]
        known = known_model(self.run, name)
        for label in (known.weights if known else name, name):  # reward models go by their labels
            if label in names and self._is_model(names[label]["reference"]):
                return names[label]["reference"]
        policies = {names[model.weights]["reference"] for model in model_names(self.run) if model.weights in names}
        others = {item["reference"] for item in names.values() if self._is_model(item["reference"])} - policies
        there = [*listed(self.run), *sorted(self.name_of(reference) for reference in others)]
        raise DataError(f"run {self.run.name} has no model '{name}'; it has: {', '.join(there) or 'none yet'}")

    def _is_model(self, reference: str) -> bool:
        stage = reference.partition("/")[0]
        return stage in ("folder", "hub") or makes_model(stage)
