"""Averages of checkpoints (2407.21783, 4.1.5): uniform, weighted, or greedy by evaluation (2203.05482).

Tensors are read and written in blocks: memory does not grow with the size of a tensor, nor with the number of them.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.core.atomic import atomic_directory
from posttrain.core.chat import load_tokenizer
from posttrain.core.errors import Faults, ModelError
from posttrain.core.model_files import WEIGHTS_INDEX, check_model_dir, is_adapter, weight_files
from posttrain.core.models import load_config
from posttrain.core.templates import print_alike
from posttrain.train.soup import greedy_soup
from posttrain.train.weight_blocks import Entry, read_entries, write_means

# Fields of config.json that say where a model came from or what a forward pass returns, not what it computes.
_ORIGIN = (
    "_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "output_router_logits",
    "output_attentions", "output_hidden_states", "return_dict", "architectures",
)  # fmt: skip
# Files of the first model that speak of its training, not of the average.
_OWN = ("metrics.jsonl", "report.json", "manifest.json")


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
        ModelError: fewer than two folders, shares that do not sum to 1, an adapter, or models that do not match (in
            configuration, names or shapes of tensors, vocabulary); all differences at once.
    """
    folders = [Path(folder) for folder in dirs]
    shares = list(weights) if weights is not None else [1.0 / len(folders)] * len(folders)
    if len(folders) < 2 or len(shares) != len(folders):
        raise ModelError(f"averaging needs two or more folders and a share each, got {len(folders)} and {len(shares)}.")
    if min(shares) <= 0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
        raise ModelError(f"shares must be positive and sum to 1, got {shares} with sum {sum(shares)}.")
    entries = _checked_entries(folders)
    with atomic_directory(out_dir) as work:
        _copy_rest(folders[0], work)
        for shard in sorted({entry.file.name for entry in entries[0].values()}):
            names = [name for name, entry in entries[0].items() if entry.file.name == shard]
            write_means(work / shard, [[model[name] for model in entries] for name in names], shares)
    return {"num_models": len(folders), "weights": shares, "num_tensors": len(entries[0])}


def greedy_average(dirs: Sequence[str | Path], out_dir: str | Path, score: Callable[[Path], float]) -> dict[str, Any]:
    """Average those models whose addition does not lower a score, starting from the best (2203.05482, recipe 1).

    Args:
        dirs: two or more model folders.
        out_dir: receives the average, or a copy of the best single model where no average is as good.
        score: from a model folder to a number, higher is better; asked once for each model and each average tried.

    Returns:
        `{"members": positions in dirs, best first, "score", "scores": of each single model, "trials": [{"members",
        "score", "kept"}]}`.

    Raises:
        ModelError: as `average_checkpoints`.
    """
    folders = [Path(folder) for folder in dirs]
    if len(folders) < 2:
        raise ModelError(f"averaging needs two or more folders, got {len(folders)}.")
    _checked_entries(folders)
    Path(out_dir).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".greedy-", dir=Path(out_dir).parent) as tried:

        def mix(chosen: Sequence[Path]) -> Path:
            place = Path(tried, f"{len(list(Path(tried).iterdir())) + 1}")
            average_checkpoints(chosen, place)
            return place

        soup = greedy_soup(folders, mix, score)
        with atomic_directory(out_dir) as work:
            _copy_rest(soup.result, work)
            for path in weight_files(soup.result):
                shutil.copy2(path, work / path.name)
    trials = [{"members": list(trial.members), "score": trial.score, "kept": trial.kept} for trial in soup.trials]
    return {"members": list(soup.members), "score": soup.score, "scores": list(soup.scores), "trials": trials}


def _checked_entries(folders: Sequence[Path]) -> list[dict[str, Entry]]:
    """Return the tensors of each model, after a look at whether they can be averaged at all."""
    for folder in folders:
        check_model_dir(folder)
        if is_adapter(folder):
            raise ModelError(f"{folder} is an adapter; merge it first, then average the whole models")
    entries = [read_entries(folder) for folder in folders]
    faults = Faults("models to average")
    for folder, model in zip(folders[1:], entries[1:], strict=True):
        _compare_settings(folders[0], folder, faults)
        _compare_templates(folders[0], folder, faults)
        _compare_vocabulary(folders[0], folder, faults)
        for name in sorted(entries[0].keys() ^ model.keys()):
            faults.add(f"{folder if name in entries[0] else folders[0]} lacks the tensor {name}")
        for name, first in entries[0].items():
            if name in model and model[name].shape != first.shape:
                faults.add(f"{name} has shape {model[name].shape} in {folder} and {first.shape} in {folders[0]}")
    faults.raise_if_any(ModelError)
    return entries


def _compare_settings(first: Path, other: Path, faults: Faults) -> None:
    """Compare the configurations as they are read: a field that is left out counts as its default."""
    ours, theirs = (load_config(folder).to_dict() for folder in (first, other))
    for key in sorted((ours.keys() | theirs.keys()) - set(_ORIGIN)):
        if ours.get(key) != theirs.get(key):
            faults.add(f"config.json has {key} {theirs.get(key)!r} in {other} and {ours.get(key)!r} in {first}")


def _compare_templates(first: Path, other: Path, faults: Faults) -> None:
    """Compare what the models were trained to read: weights under two chat templates have no common mean."""
    if not print_alike(load_tokenizer(first), load_tokenizer(other)):
        faults.add(
            f"the chat templates of {other} and {first} print a conversation in two ways; average models that were "
            "trained with one template"
        )


def _compare_vocabulary(first: Path, other: Path, faults: Faults) -> None:
    """Compare what token ids mean, where both tokenizers say it in tokenizer.json."""
    ours, theirs = _vocabulary(first), _vocabulary(other)
    if ours is not None and theirs is not None and ours != theirs:
        faults.add(f"tokenizer.json has another vocabulary in {other} than in {first}")


def _vocabulary(folder: Path) -> Any:
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content.get("model"), content.get("added_tokens")


def _copy_rest(folder: Path, work: Path) -> None:
    stale = [] if weight_files(folder) != [folder / "model.safetensors"] else [folder / WEIGHTS_INDEX]
    for path in sorted(folder.iterdir()):
        carries_weights = path.suffix in (".safetensors", ".bin") or path in stale
        if path.is_file() and not carries_weights and path.name not in _OWN:
            shutil.copy2(path, work / path.name)
