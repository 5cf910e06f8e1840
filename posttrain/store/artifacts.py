"""Artifacts: a stage's directory under the hash of what was asked, finished when its manifest is there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.core.errors import StorageError
from posttrain.core.files import atomic_write, file_lock, sha256_file
from posttrain.core.versions import version_of
from posttrain.store.fingerprint import address, differences

MANIFEST = "manifest.json"
ARTIFACTS = "artifacts"
"""Folder of all artifacts under a root."""
PACKAGES = ("posttrain", "torch", "transformers", "trl", "peft", "datasets", "accelerate")


@dataclass(frozen=True)
class Artifact:
    """A stage's result, or the place where it will be.

    Attributes:
        stage: Name in the table of stages.
        address: Hash of what was asked.
        path: Directory of the files.
        manifest: The manifest; None while the artifact is not there.
    """

    stage: str
    address: str
    path: Path
    manifest: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    @property
    def reference(self) -> str:
        """Return `stage/address`, the name under which other artifacts know this one."""
        return f"{self.stage}/{self.address}"

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Return what the stage measured; empty while the artifact is not there."""
        return self.manifest["metrics"] if self.manifest else {}


class ArtifactStore:
    """All artifacts under one root: `root/artifacts/<stage>/<address>/`."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def find(self, asked: Mapping[str, Any]) -> Artifact:
        """Return the artifact of what is asked; its manifest is None if it is not there."""
        return self.find_address(asked["stage"], address(asked))

    def place(self, stage: str, address: str) -> Path:
        """Return where an artifact is, or will be."""
        return self.root / ARTIFACTS / stage / address

    def find_address(self, stage: str, address: str) -> Artifact:
        """Return the artifact at an address; its manifest is None if it is not there."""
        path = self.place(stage, address)
        return Artifact(stage, address, path, read_manifest(path))

    def build(
        self, asked: Mapping[str, Any], fill: Callable[[Path], Mapping[str, Any]], how: Mapping[str, Any]
    ) -> Artifact:
        """Return the artifact, running `fill` if it is not there; two processes asking for it build it once.

        `fill` gets a working directory that survives a crash: what an interrupted run left in it is found again. The
        manifest is written last, then the directory is renamed into place.

        Args:
            asked: What is asked (`fingerprint.identity`).
            fill: Fills the directory and returns the stage's metrics.
            how: How it is run (device, workers, …), recorded in the manifest only.
        """
        place = self.find(asked)
        place.path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(place.path.parent / f".{place.address}.lock"):
            found = self.find(asked)
            if found.manifest is not None:
                return found
            work = place.path.parent / f".{place.address}.partial"
            for left in place.path.parent.glob(f".{work.name}.*.tmp"):  # of a stage that was killed while it wrote
                shutil.rmtree(left)
            work.mkdir(exist_ok=True)
            started = time.time()
            metrics = fill(work)
            manifest = _manifest(asked, metrics, how, work, started)
            atomic_write(work / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
            if place.path.exists():  # a directory without a manifest was never finished
                shutil.rmtree(place.path)
            os.replace(work, place.path)
        return self.find(asked)

    def manifests(self, stage: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the address and manifest of every finished artifact of a stage."""
        folder = self.root / ARTIFACTS / stage
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            manifest = None if path.name.startswith(".") else read_manifest(path)
            if manifest is not None:
                yield path.name, manifest

    def nearest(
        self, asked: Mapping[str, Any], besides: Collection[str] = ()
    ) -> tuple[str, list[tuple[str, Any, Any]]] | None:
        """Return the artifact of the same stage that differs in the fewest fields, and those fields.

        Args:
            asked: What is asked; its own artifact is left out.
            besides: Addresses that are left out too.
        """
        others = [
            (len(changed := differences(manifest["asked"], asked)), -manifest["finished"], key, changed)
            for key, manifest in self.manifests(asked["stage"])
            if key != address(asked) and key not in besides
        ]
        if not others:
            return None
        _, _, key, changed = min(others, key=lambda item: item[:3])
        return key, changed


def read_manifest(path: Path) -> Mapping[str, Any] | None:
    """Return the manifest of a finished artifact, None if the directory is not one.

    Raises:
        StorageError: The manifest is there and damaged.
    """
    remedy = f"remove {path} to have it made again"
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise StorageError(f"manifest {path / MANIFEST} cannot be read ({error}); {remedy}") from error
    kinds = {"asked": dict, "metrics": dict, "files": dict, "finished": float, "seconds": float}
    lacking = [
        k for k, kind in kinds.items() if not isinstance(manifest, dict) or not isinstance(manifest.get(k), kind)
    ]
    if lacking:
        raise StorageError(f"{path / MANIFEST} is no manifest: it lacks {', '.join(lacking)}; {remedy}")
    return manifest


def damaged_files(artifact: Artifact) -> list[str]:
    """Compare every file's bytes with the manifest; return a line per missing, changed or added file."""
    assert artifact.manifest is not None
    expected = artifact.manifest["files"]
    found = _files(artifact.path)
    lines = []
    if address(artifact.manifest["asked"]) != artifact.address:
        lines.append(f"{artifact.path / MANIFEST}: what it says was asked has another address")
    lines += [f"{artifact.path / name}: missing" for name in expected if name not in found]
    lines += [f"{artifact.path / name}: not in the manifest" for name in found if name not in expected]
    for name in expected:
        if name in found and sha256_file(artifact.path / name) != expected[name]:
            lines.append(f"{artifact.path / name}: content differs from the manifest")
    return lines


def _manifest(
    asked: Mapping[str, Any], metrics: Mapping[str, Any], how: Mapping[str, Any], work: Path, started: float
) -> dict[str, Any]:
    finished = time.time()
    return {
        "asked": asked,
        "metrics": metrics,
        "how": how,
        "started": started,
        "finished": finished,
        "seconds": round(finished - started, 3),
        "versions": {name: version_of(name) for name in PACKAGES},
        "git_commit": _git_commit(),
        "files": {name: sha256_file(work / name) for name in _files(work)},
    }


def _files(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST
    )


def _git_commit() -> str | None:
    """Return the commit of the code that runs, None outside a checkout."""
    try:
        reply = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return reply.stdout.strip() or None
