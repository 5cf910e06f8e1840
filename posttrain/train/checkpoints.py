"""Resumable checkpoints: which are whole, and whether they belong to this run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from posttrain.core.files import atomic_write
from posttrain.train.errors import TrainError

FOLDER = "checkpoints"
_IDENTITY = "identity.json"


def find_checkpoint(folder: Path, identity: dict[str, Any]) -> Path | None:
    """Return the newest whole checkpoint of this run, or None, and note whose checkpoints the folder holds.

    Args:
        folder: where the trainer writes checkpoint-N folders.
        identity: hashes of config, rows and starting weights, by name.

    Raises:
        TrainError: the folder holds checkpoints of another config, other rows or other weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / _IDENTITY
    if note.is_file():
        known = json.loads(note.read_text(encoding="utf-8"))
        changed = [name for name in identity if known.get(name) != identity[name]]
        if changed:
            raise TrainError(
                f"{folder} holds checkpoints of a run with other {' and '.join(changed)}; resuming would mix the two. "
                "Delete the folder to start afresh, or bring back what was changed."
            )
    else:
        atomic_write(note, json.dumps(identity))
    for path in sorted(folder.glob("checkpoint-*"), key=_step_of, reverse=True):
        if is_whole(path):
            return path
    return None


def is_whole(path: Path) -> bool:
    """Say whether a checkpoint has all its parts.

    The trainer state is written last, so a killed save lacks it; without optimizer or random state transformers would
    go on silently with fresh ones.
    """
    parts: Sequence[str] = ("trainer_state.json", "optimizer.pt", "scheduler.pt")
    if any(not (path / part).is_file() for part in parts) or not any(path.glob("rng_state*.pth")):
        return False
    weights = [*path.glob("model*.safetensors"), *path.glob("adapter_model.safetensors")]
    try:
        json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        for file in weights:
            with safe_open(file, framework="pt"):
                pass
    except (SafetensorError, json.JSONDecodeError):
        return False
    return bool(weights)


def _step_of(path: Path) -> int:
    number = path.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1
