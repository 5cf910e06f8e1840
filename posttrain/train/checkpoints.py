"""Resumable checkpoints: written whole or not at all, found again, and known to belong to this run."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from posttrain.core.atomic import sync_tree
from posttrain.core.files import atomic_write
from posttrain.train.errors import TrainError

FOLDER = "checkpoints"
WRITING = "unfinished"
"""Folder beside the checkpoints in which the next one is written, before it is renamed into place."""
COUNTS = "counts.pt"
"""File of a checkpoint with what a resumed run counts on from."""
KEPT = 2
"""Newest checkpoints that stay."""
_IDENTITY = "identity.json"
_PARTS: Sequence[str] = ("trainer_state.json", "optimizer.pt", "scheduler.pt", COUNTS)

log = logging.getLogger(__name__)


def find_checkpoint(folder: Path, identity: dict[str, Any], main: bool = True) -> Path | None:
    """Return the newest whole checkpoint of this run, or None, and note whose checkpoints the folder holds.

    What is passed over, because a save was cut off or a file is damaged, is said as a warning.

    Args:
        folder: where the trainer writes checkpoint-N folders.
        identity: hashes of config, rows and starting weights, by name.
        main: false in all processes but the first, which only look.

    Raises:
        TrainError: the folder holds checkpoints of another config, other rows or other weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = checkpoints_in(folder)
    _require_same_run(folder, identity, bool(paths))
    passed_over = []
    if main:
        atomic_write(folder / _IDENTITY, json.dumps(identity))
        passed_over = [f"{path.name} (its save was cut off)" for path in (folder / WRITING).glob("checkpoint-*")]
        shutil.rmtree(folder / WRITING, ignore_errors=True)
    found = None
    for path in reversed(paths):
        missing = fault_of(path)
        if missing is None:
            found = path
            break
        passed_over.append(f"{path.name} ({missing})")
    if main and passed_over:
        log.warning(
            "half-written checkpoints in %s are passed over: %s; training %s",
            folder, ", ".join(passed_over), f"goes on from {found.name}" if found else "starts anew",
        )  # fmt: skip
    return found


def _require_same_run(folder: Path, identity: dict[str, Any], has_checkpoints: bool) -> None:
    note = folder / _IDENTITY
    if not has_checkpoints or not note.is_file():
        return
    known = json.loads(note.read_text(encoding="utf-8"))
    changed = [name for name in identity if known.get(name) != identity[name]]
    if changed:
        raise TrainError(
            f"{folder} holds checkpoints of a run with other {' and '.join(changed)}; resuming would mix the two. "
            "Delete the folder to start afresh, or bring back what was changed."
        )


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoint folders, the newest last."""
    return sorted((path for path in folder.glob("checkpoint-*") if step_of(path) >= 0), key=step_of)


def step_of(path: Path) -> int:
    """Return the step of a checkpoint's folder, -1 where its name has none."""
    number = path.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def fault_of(path: Path) -> str | None:
    """Return what a checkpoint lacks or which file is damaged, None where it is whole.

    Without optimizer or random state transformers would go on silently with fresh ones.
    """
    missing = [part for part in _PARTS if not (path / part).is_file()]
    if not any(path.glob("rng_state*.pth")):
        missing.append("rng_state.pth")
    weights = [*path.glob("model*.safetensors"), *path.glob("adapter_model.safetensors")]
    if not weights:
        missing.append("model.safetensors")
    if missing:
        return f"{', '.join(missing)} missing"
    try:
        file = path / "trainer_state.json"
        json.loads(file.read_text(encoding="utf-8"))
        for file in weights:
            with safe_open(file, framework="pt"):
                pass
    except (SafetensorError, json.JSONDecodeError):
        return f"{file.name} damaged"
    return None


def publish(written: Path, folder: Path) -> None:
    """Put a checkpoint that was written under `unfinished` in its place, and delete all but the newest.

    One of a later step can only be damaged: this run has passed it over when it started.
    """
    sync_tree(written)
    place = folder / written.name
    if place.exists():  # one that was passed over, or the same one again
        shutil.rmtree(place)
    os.replace(written, place)
    paths = checkpoints_in(folder)
    kept = [path for path in paths if step_of(path) <= step_of(place)][-KEPT:]
    for path in paths:
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)


def check_room(folder: Path, model: Any, allow: Sequence[str]) -> None:
    """Refuse to start where the disk cannot hold the checkpoints that stay, the one being written, and the model.

    Args:
        folder: where checkpoints go.
        model: what is trained, perhaps with adapters; a checkpoint then holds these alone.

    Raises:
        TrainError: too little space (override: `disk_space`).
    """
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    # Adam keeps two moments of each number.
    num_bytes = (trained if hasattr(model, "peft_config") else weights) + 2 * trained
    needed = max(0, KEPT + 1 - len(checkpoints_in(folder))) * num_bytes + weights
    free = shutil.disk_usage(folder).free
    if free < needed and "disk_space" not in allow:
        raise TrainError(
            f"{folder} has {free / 1e9:.1f} GB free, and {KEPT + 1} checkpoints of {num_bytes / 1e9:.1f} GB with the "
            f"trained model need {needed / 1e9:.1f} GB. Free some space, or leave out checkpoint_steps; to go on all "
            "the same: allow: [disk_space]."
        )
