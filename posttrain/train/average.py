"""Averages of checkpoints (2407.21783, 4.1.5), tensor by tensor, so that memory holds one tensor of each."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from posttrain.core.atomic import atomic_directory
from posttrain.core.errors import Faults, ModelError
from posttrain.core.models import check_model_dir

_INDEX = "model.safetensors.index.json"
# Fields of config.json that say where a model came from, not what it is.
_ORIGIN = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")


def average_checkpoints(
    dirs: Sequence[str | Path], out_dir: str | Path, weights: Sequence[float] | None = None
) -> dict[str, Any]:
    """Write the weighted mean of models of one architecture as a Hugging Face folder.

    Sums are float32 whatever the files hold; each tensor is written in the type of the first model, in the first
    model's shards, and everything but the weights (config, tokenizer, template) is the first model's.

    Args:
        dirs: two or more model folders.
        weights: their shares, positive, of sum 1; equal when absent.

    Returns:
        `{"num_models", "weights", "num_tensors"}`.

    Raises:
        ModelError: fewer than two folders, shares that do not sum to 1, or models that do not match; all
            differences at once.
    """
    folders = [Path(folder) for folder in dirs]
    shares = list(weights) if weights is not None else [1.0 / len(folders)] * len(folders)
    if len(folders) < 2 or len(shares) != len(folders):
        raise ModelError(f"averaging needs two or more folders and a share each, got {len(folders)} and {len(shares)}.")
    if min(shares) <= 0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
        raise ModelError(f"shares must be positive and sum to 1, got {shares} with sum {sum(shares)}.")
    for folder in folders:
        check_model_dir(folder)
    places = [_places(folder) for folder in folders]
    _require_same(folders, places)
    with atomic_directory(out_dir) as work:
        _copy_rest(folders[0], work)
        for shard in sorted(set(places[0].values())):
            names = [name for name, file in places[0].items() if file == shard]
            _write_shard(Path(work), shard, names, folders, places, shares)
    return {"num_models": len(folders), "weights": shares, "num_tensors": len(places[0])}


def _places(folder: Path) -> dict[str, str]:
    """Map each tensor's name to its file."""
    index = folder / _INDEX
    if index.is_file():
        return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return dict.fromkeys(file.keys(), "model.safetensors")


def _require_same(folders: Sequence[Path], places: Sequence[dict[str, str]]) -> None:
    faults = Faults("models to average")
    configs = [json.loads((folder / "config.json").read_text(encoding="utf-8")) for folder in folders]
    for folder, config, place in zip(folders[1:], configs[1:], places[1:], strict=True):
        for key in sorted((configs[0].keys() | config.keys()) - set(_ORIGIN)):
            ours, theirs = configs[0].get(key), config.get(key)
            if ours != theirs:
                faults.add(f"config.json has {key} {theirs!r} in {folder} and {ours!r} in {folders[0]}")
        for name in sorted(places[0].keys() ^ place.keys()):
            faults.add(f"{folder if name in places[0] else folders[0]} lacks the tensor {name}")
    faults.raise_if_any(ModelError)


def _write_shard(
    work: Path,
    shard: str,
    names: Sequence[str],
    folders: Sequence[Path],
    places: Sequence[dict[str, str]],
    shares: Sequence[float],
) -> None:
    """Average the tensors of one file of the first model."""
    averaged: dict[str, Tensor] = {}
    with ExitStack() as stack:
        files: dict[Path, Any] = {}
        for folder, place in zip(folders, places, strict=True):
            for file in {place[name] for name in names}:
                files[folder / file] = stack.enter_context(safe_open(folder / file, framework="pt"))
        for name in names:
            parts = [files[folder / place[name]] for folder, place in zip(folders, places, strict=True)]
            averaged[name] = _mean(name, [part.get_tensor(name) for part in parts], shares)
    save_file(averaged, work / shard, metadata={"format": "pt"})


def _mean(name: str, tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    first = tensors[0]
    if any(tensor.shape != first.shape for tensor in tensors):
        raise ModelError(f"the tensor {name} has shapes {[tuple(t.shape) for t in tensors]}; they must agree.")
    if not first.is_floating_point():
        return first
    total = torch.zeros_like(first, dtype=torch.float32)
    for tensor, share in zip(tensors, shares, strict=True):
        total.add_(tensor.float(), alpha=share)
    return total.to(first.dtype)


def _copy_rest(folder: Path, work: str | Path) -> None:
    for path in sorted(folder.iterdir()):
        carries_weights = path.suffix in (".safetensors", ".bin") or path.name == "metrics.jsonl"
        if path.is_file() and not carries_weights:
            shutil.copy2(path, Path(work) / path.name)
