"""Model folders as files: what is in them, whether it is whole, and what names it. Loads no weights and no torch."""

from __future__ import annotations

import json
import re
import struct
import warnings
from pathlib import Path
from typing import Any

from posttrain.core.atomic import PathLike, atomic_write
from posttrain.core.errors import Faults, ModelError
from posttrain.core.files import content_hash, sha256_file

_REVISION = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# All that can change what a model says: weights, configuration, tokenizer, chat template, stop tokens.
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_IDENTITY = (
    *_WEIGHTS,
    "config.json",
    "adapter_config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "chat_template*",
    "additional_chat_templates/*",
)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json", "spiece.model")
WEIGHTS_INDEX = "model.safetensors.index.json"
BASE_NOTE = "base.json"
"""File of an adapter that names the content of its base."""
_hashes: dict[tuple[str, int, int], str] = {}


def model_hash(model_dir: PathLike) -> str:
    """Name a model by the content of its files, 16 hex digits; where they lie and when they were written do not count.

    An adapter's name includes that of its base. A file is read once per process as long as its size and time stay.

    Raises:
        ModelError: the folder holds no model.
    """
    folder = Path(model_dir)
    weights = [*weight_files(folder), *folder.glob("adapter_model.safetensors")]
    unread = {path for pattern in _WEIGHTS for path in folder.glob(pattern)} - set(weights)
    if weights[:1] != [folder / "model.safetensors"]:
        unread.discard(folder / WEIGHTS_INDEX)
    found = {path for pattern in _IDENTITY for path in folder.glob(pattern) if path.is_file()}
    files = sorted(found - unread)
    if not weights:
        raise ModelError(f"{folder} holds no .safetensors file; give a Hugging Face model folder")
    content: dict[str, Any] = {path.relative_to(folder).as_posix(): _file_hash(path) for path in files}
    if is_adapter(folder):
        settings = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        # The base counts by its content, not by where it lay when the adapter was saved.
        settings.pop("base_model_name_or_path", None)
        content["adapter_config.json"] = content_hash(settings)
        content["base"] = model_hash(adapter_base(folder))
    return content_hash(content)


def weight_files(model_dir: PathLike) -> list[Path]:
    """List the files of a folder that hold a whole model's weights, as transformers chooses them.

    `model.safetensors` before the shards of an index; other files (Mistral's consolidated.safetensors, shards of an
    earlier save) are read by nobody. Empty where the folder has neither, or an index that names no file.
    """
    folder = Path(model_dir)
    single, index = folder / "model.safetensors", folder / WEIGHTS_INDEX
    if single.is_file() or not index.is_file():
        return [single] if single.is_file() else []
    weight_map = _read_json(index, Faults(str(index))).get("weight_map")
    names = weight_map.values() if isinstance(weight_map, dict) else ()
    return [folder / name for name in sorted({name for name in names if isinstance(name, str)})]


def is_adapter(model_dir: PathLike) -> bool:
    """Tell whether a folder holds an adapter (LoRA) rather than a whole model."""
    return Path(model_dir, "adapter_config.json").is_file()


def adapter_base(adapter_dir: PathLike) -> Path:
    """Find the folder of an adapter's base model.

    Raises:
        ModelError: the adapter names none, or it is not there.
    """
    faults = Faults(f"{adapter_dir} is no usable adapter")
    base = _read_json(Path(adapter_dir, "adapter_config.json"), faults).get("base_model_name_or_path")
    if not faults and (not isinstance(base, str) or not base or not Path(base).is_dir()):
        faults.add(f"its base model {base!r} is no folder here; correct base_model_name_or_path in adapter_config.json")
    faults.raise_if_any(ModelError)
    return Path(str(base))


def note_base(adapter_dir: PathLike, base_hash: str) -> None:
    """Write down, beside an adapter, the `model_hash` of the weights that it was trained above."""
    atomic_write(Path(adapter_dir, BASE_NOTE), json.dumps({"model_hash": base_hash}) + "\n")


def check_adapter_base(adapter_dir: PathLike) -> None:
    """Refuse an adapter whose base is not the model that it was trained above, by the content of the base's files.

    An adapter without base.json, as other tools write it, is let through with a warning.

    Raises:
        ModelError: the base has other content, or base.json is damaged.
    """
    base = adapter_base(adapter_dir)
    note = Path(adapter_dir, BASE_NOTE)
    if not note.is_file():
        warnings.warn(
            f"{adapter_dir} has no {BASE_NOTE}, so nothing says whether it was trained above {base}", stacklevel=2
        )
        return
    faults = Faults(f"{adapter_dir} is no usable adapter")
    wanted = _read_json(note, faults).get("model_hash")
    faults.raise_if_any(ModelError)
    found = model_hash(base)
    if found != wanted:
        raise ModelError(
            f"{adapter_dir} was trained above a model with hash {wanted}, but its base {base} now has hash {found}: "
            "weights, configuration or tokenizer were changed. Bring the base back, or name the right one in "
            f"adapter_config.json; if you know that the change is harmless, remove {BASE_NOTE}"
        )


def check_model_dir(path: PathLike) -> None:
    """Refuse a folder that is no whole model: weights as safetensors, configuration, tokenizer, chat template.

    The weights' headers are compared with their sizes, so a download that broke off is found without reading it.

    Raises:
        ModelError: lists all faults.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder; give a Hugging Face model folder")
    faults = Faults(f"{folder} is no usable model folder")
    if is_adapter(folder):
        _check_adapter(folder, faults)
    else:
        _check_config(folder, faults)
        _check_weights(folder, faults)
    _check_tokenizer(folder, faults)
    if (folder / "generation_config.json").is_file():
        _read_json(folder / "generation_config.json", faults)
    faults.raise_if_any(ModelError)


def resolve(source: str, revision: str | None = None) -> Path:
    """Find a model: a local folder, or a model of the hub at a fixed revision (from the cache where it is there).

    Raises:
        ModelError: no such folder; a hub model without a 40-digit revision; or it can be had neither from the cache
            nor from the hub.
    """
    if Path(source).is_dir():
        if revision is not None:
            raise ModelError(f"{source} is a local folder, which has no revision (got {revision!r}); leave it out")
        return Path(source)
    if source.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(source):
        raise ModelError(f"{source}: no such folder; give a model folder, or a hub id such as owner/name")
    if revision is None or not _REVISION.fullmatch(revision):
        raise ModelError(
            f"{source} is no folder here, and as a hub model it needs a revision of 40 hex digits (got {revision!r}); "
            "a branch moves, so copy the commit from the model's page"
        )
    from huggingface_hub import snapshot_download  # light runs have no use for it
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=list(_IDENTITY)))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, ConnectionError) as error:
        raise ModelError(
            f"{source} at {revision} is not in the local cache and cannot be fetched ({type(error).__name__}); "
            "fetch it where there is a network, or give a local folder"
        ) from error


def hub_folder(repo: str, revision: str) -> Path:
    """Return the folder in the local cache where a hub model at a revision is, or will be once it is fetched."""
    from huggingface_hub.constants import HF_HUB_CACHE  # light runs have no use for it
    from huggingface_hub.file_download import repo_folder_name

    return Path(HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type="model"), "snapshots", revision)


# ---------------------------------------------------------------- parts of a folder


def _file_hash(path: Path) -> str:
    status = path.stat()
    key = (str(path.resolve()), status.st_size, status.st_mtime_ns)
    if key not in _hashes:
        _hashes[key] = sha256_file(path)
    return _hashes[key]


def _read_json(path: Path, faults: Faults) -> dict[str, Any]:
    if not path.is_file():
        faults.add(f"no {path.name}")
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        faults.add(f"{path.name} is not JSON: {error}")
        return {}
    if not isinstance(value, dict):
        faults.add(f"{path.name} holds no JSON object")
        return {}
    return value


def _check_config(folder: Path, faults: Faults) -> None:
    config = _read_json(folder / "config.json", faults)
    if config and "model_type" not in config:
        faults.add("config.json names no model_type")


def _check_weights(folder: Path, faults: Faults) -> None:
    files = weight_files(folder)
    for path in files:
        _check_safetensors(path, faults)
    if files:
        return
    if (folder / WEIGHTS_INDEX).is_file():
        _read_json(folder / WEIGHTS_INDEX, faults)
        faults.add(f"{WEIGHTS_INDEX} names no weights")
    elif list(folder.glob("*.bin")):
        faults.add("weights only as .bin (pickle, which can run code); save the model again as safetensors")
    else:
        faults.add("no model.safetensors")


def _check_safetensors(path: Path, faults: Faults) -> None:
    if not path.is_file():
        faults.add(f"no {path.name}, which the index names")
        return
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        header = file.read(length) if 8 + length <= size else b""
    try:
        tensors = json.loads(header)
    except ValueError:
        faults.add(f"{path.name} is no safetensors file or broke off ({size} bytes); fetch it again")
        return
    try:
        entries = [entry for name, entry in tensors.items() if name != "__metadata__"]
        end = max((int(entry["data_offsets"][1]) for entry in entries), default=0)
    except (AttributeError, TypeError, ValueError, LookupError):
        faults.add(f"{path.name} has a header that describes no weights; fetch it again")
        return
    if 8 + length + end != size:
        faults.add(f"{path.name} has {size} bytes where its header asks for {8 + length + end}; fetch it again")


def _check_adapter(folder: Path, faults: Faults) -> None:
    if (folder / "adapter_model.safetensors").is_file():
        _check_safetensors(folder / "adapter_model.safetensors", faults)
    else:
        faults.add("no adapter_model.safetensors")
    try:
        base = adapter_base(folder)
    except ModelError as error:
        faults.add(str(error))
        return
    inner = Faults("base")
    _check_config(base, inner)
    _check_weights(base, inner)
    for message in inner.messages:
        faults.add(f"base model {base}: {message}")


def _check_tokenizer(folder: Path, faults: Faults) -> None:
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        faults.add("no tokenizer.json")
    config = _read_json(folder / "tokenizer_config.json", faults)
    if not (folder / "chat_template.jinja").is_file() and not config.get("chat_template"):
        faults.add("no chat template (chat_template.jinja); instruct models have one, a base model needs one added")
