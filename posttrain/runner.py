"""Carry out stages one after the other, or say what would be carried out.

`rounds.py` unrolls a recipe by calling `stage(label, name, inputs, **config)`. An Executor builds what is not there;
a Planner only computes addresses. Both see the same calls, so a plan cannot differ from what is run.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from posttrain.core.errors import PosttrainError, StorageError
from posttrain.core.files import atomic_write, content_hash, read_text
from posttrain.lineage.indexing import index_rows
from posttrain.recipe import Recipe, recipe_json
from posttrain.runs import read_record
from posttrain.stages import STAGES, Progress, StageCall
from posttrain.store.artifacts import MANIFEST, Artifact, ArtifactStore
from posttrain.store.fingerprint import identity
from posttrain.train.errors import TrainingInterrupted

log = logging.getLogger(__name__)

Inputs = Mapping[str, Artifact | Sequence[Artifact]]


class Runner(Protocol):
    """What rounds.py needs: run a stage (or plan it), and give an artifact a further name."""

    def stage(self, label: str, name: str, inputs: Inputs | None = None, **config: Any) -> Artifact:
        """Return the artifact of a stage under the name `label` of this run."""
        ...

    def alias(self, label: str, artifact: Artifact) -> None:
        """Give an artifact a further name in this run."""
        ...


class Watcher(Protocol):
    """What a person sees while a run is going."""

    def started(self, label: str, name: str) -> Progress:
        """Announce a stage and return where its progress goes."""
        ...

    def finished(self, label: str, name: str, status: str, seconds: float) -> None:
        """Announce that a stage ended as `hit` or `ran`."""
        ...


def ask(name: str, inputs: Inputs | None, config: Mapping[str, Any], template_date: str | None) -> dict[str, Any]:
    """Return the identity of a stage call; the date that templates print belongs to every stage's question."""
    references = {
        key: value.reference if isinstance(value, Artifact) else [item.reference for item in value]
        for key, value in (inputs or {}).items()
    }
    return identity(name, STAGES[name].version, {**config, "template_date": template_date}, references)


class Planner:
    """Compute every stage's address and whether it is there, without running anything."""

    def __init__(self, store: ArtifactStore, template_date: str | None) -> None:
        self.store = store
        self.template_date = template_date
        self.stages: list[dict[str, Any]] = []

    def stage(self, label: str, name: str, inputs: Inputs | None = None, **config: Any) -> Artifact:
        """Note the stage as `hit` or `run`."""
        asked = ask(name, inputs, config, self.template_date)
        artifact = self.store.find(asked)
        if any(row["label"] == label and row["address"] == artifact.address for row in self.stages):
            return artifact
        seen = any(row["stage"] == name and row["address"] == artifact.address for row in self.stages)
        status = "hit" if artifact.manifest or seen else "run"
        self.stages.append(
            {
                "label": label,
                "stage": name,
                "address": artifact.address,
                "status": status,
                "artifact": artifact,
                "asked": asked,
                "inputs": {k: v if isinstance(v, Artifact) else list(v) for k, v in (inputs or {}).items()},
                "config": config,
            }
        )
        return artifact

    def alias(self, label: str, artifact: Artifact) -> None:
        """Do nothing: a plan leaves no names behind."""


class Executor:
    """Run what is not there yet, and keep the run's record and its named links up to date."""

    def __init__(self, store: ArtifactStore, run_dir: Path, recipe: Recipe, watcher: Watcher) -> None:
        self.store = store
        self.run_dir = run_dir
        self.execution = recipe.execution
        self.template_date = recipe.template_date
        self.watcher = watcher
        self.record = RunRecord(run_dir)
        self.lacks_index = False

    def stage(self, label: str, name: str, inputs: Inputs | None = None, **config: Any) -> Artifact:
        """Return the stage's artifact, building it if it is not there."""
        asked = ask(name, inputs, config, self.template_date)
        found = self.store.find(asked)
        if self.record.has(label, found.address):
            return found
        started = time.time()
        if found.manifest is None:
            self.record.update(label, name, found.address, "running", started)
            report = self.watcher.started(label, name)
            try:
                found = self.store.build(asked, lambda out: self._fill(name, out, inputs, config, report), self._how())
                self._index(found)
            except BaseException as error:
                self.record.update(label, name, found.address, state_after(error), started)
                raise
            status = "ran"
        else:
            status = "hit"
        self.watcher.finished(label, name, status, time.time() - started)
        self.alias(label, found)
        self.record.update(label, name, found.address, status, started)
        return found

    def alias(self, label: str, artifact: Artifact) -> None:
        """Link runs/<name>/<label> to the artifact and note the name in the record."""
        self.record.name(label, artifact)
        link = self.run_dir / label
        link.parent.mkdir(parents=True, exist_ok=True)
        target = os.path.relpath(artifact.path, link.parent)
        if link.is_symlink() and os.readlink(link) == target:
            return
        if link.is_dir() and not link.is_symlink():
            _remove_copy(link)
        temporary = link.with_name(f".{link.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        os.replace(temporary, link)

    def _fill(
        self, name: str, out: Path, inputs: Inputs | None, config: Mapping[str, Any], report: Progress
    ) -> dict[str, Any]:
        paths = {
            key: value.path if isinstance(value, Artifact) else [item.path for item in value]
            for key, value in (inputs or {}).items()
        }
        return STAGES[name].load()(StageCall(paths, out, self.execution, self.template_date, report), **config)

    def _index(self, artifact: Artifact) -> None:
        """Index a finished artifact's rows; what keeps that from being written stops no run."""
        try:
            index_rows(self.store.root, artifact)
        except (OSError, PosttrainError) as error:
            if not self.lacks_index:  # once is enough: a full disk is full for all stages
                log.warning("%s is whole but has no index (%s); posttrain trace makes it", artifact.reference, error)
            self.lacks_index = True

    def _how(self) -> dict[str, Any]:
        return self.execution.model_dump(mode="json")


def _remove_copy(place: Path) -> None:
    """Remove the copy of a model or artifact that stands where a link belongs: `scp -r` and `cp -rL` follow links.

    Raises:
        StorageError: the folder is nothing that a link of ours leads to.
    """
    if not any((place / name).is_file() for name in (MANIFEST, "config.json")):
        raise StorageError(
            f"{place} is a folder where a link of this run belongs, and holds no artifact; move it away, and run again"
        )
    log.warning("%s is a copy where a link belongs (links were followed when the run was copied); it is removed", place)
    shutil.rmtree(place)


def state_after(error: BaseException) -> str:
    """Return the state of what an exception ended: `interrupted` by ctrl-C or a signal, else `failed`."""
    return "interrupted" if isinstance(error, KeyboardInterrupt | TrainingInterrupted) else "failed"


class RunRecord:
    """`runs/<name>/run.json`: the stages of the latest command in order, and every name's artifact."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / "run.json"
        self.data: dict[str, Any] = {
            "state": "running",
            "pid": os.getpid(),
            "started": time.time(),
            "stages": [],
            "names": {},
        }

    def begin(self, recipe: Recipe, planned: Sequence[Mapping[str, Any]]) -> None:
        """Write the resolved recipe and the list of stages that are planned; the last command's links go.

        A changed recipe may have other stages: a link that stayed would name what this run does not hold.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._forget_last_command()
        self.data["recipe"] = recipe.name
        self.data["planned"] = [{key: row[key] for key in ("label", "stage", "address", "status")} for row in planned]
        atomic_write(self.path.parent / "recipe.resolved.json", recipe_json(recipe))
        self._write()

    def keep_text(self, recipe: Path, overrides: Sequence[str]) -> None:
        """Keep the recipe as it was written, comments included, and what the command line changed of it."""
        atomic_write(self.path.parent / "recipe.yaml", read_text(recipe))
        self.data["overrides"] = list(overrides)
        self._write()

    def _forget_last_command(self) -> None:
        if not self.path.exists():
            return
        last = read_record(self.path)
        self.data["reported"] = last.get("reported")
        for link in (self.path.parent / label for label in last["names"]):
            if link.is_symlink():
                link.unlink()

    def report(self, write: Callable[[], Path], path: Path) -> None:
        """Write the report, unless the last one was on the very same artifacts."""
        names = content_hash(self.data["names"])
        if self.data.get("reported") != names or not path.exists():
            write()
            self.data["reported"] = names
            self._write()

    def update(self, label: str, stage: str, address: str, status: str, started: float) -> None:
        """Note where a stage is."""
        row = {
            "label": label,
            "stage": stage,
            "address": address,
            "status": status,
            "started": started,
            "seconds": round(time.time() - started, 3),
        }
        self.data["stages"] = [old for old in self.data["stages"] if old["label"] != label] + [row]
        self._write()

    def has(self, label: str, address: str) -> bool:
        """Tell whether this command has already come by this stage under this name."""
        return any(
            row["label"] == label and row["address"] == address and row["status"] in ("hit", "ran")
            for row in self.data["stages"]
        )

    def name(self, label: str, artifact: Artifact) -> None:
        """Note a name; an artifact outside the store keeps its path."""
        self.data["names"][label] = {
            "reference": artifact.reference,
            "path": None if artifact.manifest is not None else str(artifact.path),
        }

    def end(self, state: str) -> None:
        """Note that the command ended as `finished`, `failed` or `interrupted`."""
        self.data["state"] = state
        self.data["finished"] = time.time()
        self._write()

    def _write(self) -> None:
        atomic_write(self.path, json.dumps(self.data, indent=1, ensure_ascii=False) + "\n")
