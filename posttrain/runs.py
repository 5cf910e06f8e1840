"""Find a run by its name or folder, and read what it did."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from posttrain.core.errors import DataError, StorageError
from posttrain.core.files import is_locked
from posttrain.store.artifacts import ARTIFACTS, MANIFEST, Artifact, ArtifactStore

log = logging.getLogger(__name__)

LOCK = ".lock"
"""File in a run's folder that a command holds locked while it runs."""


HARNESS = "harness.json"
"""File in a run's folder with the numbers of `posttrain evaluate`."""


RECORD_KEYS = {"recipe": str, "state": str, "stages": list, "names": dict, "planned": list}
_REMEDY = "remove it and run the recipe again, which finds all finished stages"


@dataclass(frozen=True)
class Run:
    """A run's folder and record.

    Attributes:
        name: The recipe's name.
        folder: `runs/<name>`.
        record: What `run.json` says.
        store: The artifacts beside it.
    """

    name: str
    folder: Path
    record: Mapping[str, Any]
    store: ArtifactStore

    @cached_property
    def state(self) -> str:
        """Return `running`, `finished`, `failed`, or `interrupted` where the process was stopped or killed.

        It is that of the first look: one answer of a command tells of one moment.
        """
        state = self.record["state"]
        # The lock tells what a process number cannot: numbers are given anew after a restart.
        return "interrupted" if state == "running" and not is_locked(self.folder / LOCK) else state

    def artifact(self, label: str) -> Artifact | None:
        """Return the artifact of a name in this run; None if the run has no such name or it is not finished."""
        name = self.record["names"].get(label)
        if name is None:
            return None
        stage, _, address = name["reference"].partition("/")
        if name["path"] is not None:
            return Artifact(stage, address, Path(name["path"]))
        found = self.store.find_address(stage, address)
        return found if found.manifest is not None else None

    def artifacts(self) -> Iterator[tuple[str, Artifact]]:
        """Yield every finished stage's label and artifact, in the order of the run."""
        for row in self.record["stages"]:
            artifact = self.store.find_address(row["stage"], row["address"])
            if artifact.manifest is not None:
                yield row["label"], artifact

    @cached_property
    def lost(self) -> list[str]:
        """Name what finished stages have made and is not there any more: `round_1/scores: score/16237d7bb38e`."""
        there = {artifact.reference for _, artifact in self.artifacts()}
        made = [row for row in self.record["stages"] if row["status"] in ("hit", "ran")]
        return [
            f"{row['label']}: {row['stage']}/{row['address']}"
            for row in made
            if f"{row['stage']}/{row['address']}" not in there
        ]

    def warn_of_lost(self) -> None:
        """Say what is gone before something is told of the run without it."""
        if self.lost:
            log.warning(
                "%d artifacts of run %s are not in %s, and what follows leaves them out: %s. Name the run with the "
                "--root that holds them, or run the recipe again to have them made there",
                len(self.lost), self.name, self.store.root / ARTIFACTS,
                ", ".join(self.lost[:5]) + (", …" if len(self.lost) > 5 else ""),
            )  # fmt: skip

    def metrics(self, label: str) -> Mapping[str, Any] | None:
        """Return the metrics of a named artifact, None if it is not there."""
        artifact = self.artifact(label)
        return None if artifact is None else artifact.metrics

    @property
    def recipe(self) -> dict[str, Any]:
        """Return the resolved recipe."""
        path = self.folder / "recipe.resolved.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError) as error:
            raise StorageError(f"{path} cannot be read ({error}); run the recipe again to have it written") from error

    @property
    def num_rounds(self) -> int:
        """Return the rounds that the recipe asks for."""
        return self.recipe["num_rounds"]


def run_folder(name: str, root: Path) -> Path | None:
    """Return the folder of a run, given by name or folder; None where it holds no record."""
    return next((folder for folder in (root / "runs" / name, Path(name)) if (folder / "run.json").is_file()), None)


def find_run(name: str, root: Path) -> Run:
    """Return a run by name (under `root/runs`) or by folder.

    Raises:
        DataError: There is no such run; the runs that are there are listed.
    """
    folder = run_folder(name, root)
    if folder is not None:
        record = read_record(folder / "run.json")
        return Run(record["recipe"], folder, record, store_of(folder, record, root))
    runs = root / "runs"
    there = sorted(path.parent.name for path in runs.glob("*/run.json")) if runs.is_dir() else []
    known = f"runs in {runs}: {', '.join(there)}" if there else f"there are no runs in {runs}"
    raise DataError(f"no run '{name}'; {known}. Give a name, a folder with run.json, or --root DIR")


def store_of(folder: Path, record: Mapping[str, Any], root: Path) -> ArtifactStore:
    """Return the artifacts of a run's folder: two folders up from where it was typed or a link leads, or under a root.

    Of these places it is the first that holds one of the run's artifacts.
    """
    places = dict.fromkeys([*(path.parent.parent for path in (folder.absolute(), folder.resolve())), root])
    stores = [ArtifactStore(place) for place in places]
    asked = [(row["stage"], row["address"]) for row in record["stages"]]
    holds = (store for store in stores if any((store.place(*one) / MANIFEST).is_file() for one in asked))
    return next(holds, stores[0])


def harness_rows(folder: Path) -> list[dict[str, Any]]:
    """Return what `posttrain evaluate` has left in a folder, nothing where it was not called.

    Raises:
        StorageError: The file is damaged.
    """
    path = folder / HARNESS
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise StorageError(f"{path} cannot be read ({error}); remove it and evaluate again") from error


def read_record(path: Path) -> dict[str, Any]:
    """Read a run's `run.json`.

    Raises:
        StorageError: It is damaged.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StorageError(f"{path} cannot be read ({error}); {_REMEDY}") from error
    found = record if isinstance(record, dict) else {}
    missing = [key for key, kind in RECORD_KEYS.items() if not isinstance(found.get(key), kind)]
    if missing:
        raise StorageError(f"{path} is no record of a run: it lacks {', '.join(missing)}; {_REMEDY}")
    return record
