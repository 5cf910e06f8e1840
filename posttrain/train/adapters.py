"""Low-rank adapters: kept beside the model, merged in float32 into unquantised weights, and the merge checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from posttrain.core.model_files import note_base
from posttrain.core.models import load_adapted
from posttrain.core.older_readers import write_for_older_readers
from posttrain.train.errors import TrainError

ADAPTER_FOLDER = "adapter"
MAX_MERGE_DELTA = 1e-4
"""Largest difference of outputs between merged and unmerged weights, relative to the largest output above 1."""


def check_targets(model: nn.Module, targets: str | Sequence[str]) -> list[str]:
    """Refuse names of layers that a model does not have: peft adapts the others and says nothing.

    Args:
        targets: "all-linear", a regular expression for whole names, or ends of names.

    Returns:
        Linear layers that take no adapter all the same, to be left out of "all-linear".

    Raises:
        TrainError: lists the names that match nothing or no layer that can be adapted, and those of the model.
    """
    several = _layers_of_several_outputs(model)
    if isinstance(targets, str) and targets.lower() == "all-linear":
        return several
    layers = {name: layer for name, layer in model.named_modules() if name}
    adaptable = {name for name, layer in layers.items() if _can_be_adapted(layer) and name not in several}
    faults = []
    for target in [targets] if isinstance(targets, str) else targets:
        found = [name for name in layers if _matches(name, target, isinstance(targets, str))]
        wrong = sorted({type(layers[name]).__name__ for name in found if name not in adaptable})
        if not found:
            faults.append(f"{target!r} matches no layer")
        elif wrong:
            faults.append(f"{target!r} matches {', '.join(wrong)}, which takes no adapter")
    if faults or not targets:
        known = sorted({name.rpartition(".")[2] for name in adaptable})
        raise TrainError(
            f"lora.target_modules: {'; '.join(faults) or 'it is empty'}. Layers of this {type(model).__name__}: "
            f"{', '.join(known)}; or use all-linear."
        )
    return []


def _matches(name: str, target: str, is_pattern: bool) -> bool:
    if not is_pattern:
        return name == target or name.endswith(f".{target}")
    try:
        return re.fullmatch(target, name) is not None
    except re.error as error:
        raise TrainError(f"lora.target_modules {target!r} is no regular expression: {error}.") from error


def _can_be_adapted(layer: nn.Module) -> bool:
    kinds = (nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention, Conv1D)
    return isinstance(layer, kinds) or "Linear" in type(layer).__name__


@torch.no_grad()
def _layers_of_several_outputs(model: Any) -> list[str]:
    """List the linear layers that give more than a product, as some routers do: an adapter adds to one tensor."""
    found: list[str] = []

    def look(name: str, output: Any) -> None:
        if not isinstance(output, Tensor):
            found.append(name)

    handles = [
        layer.register_forward_hook(lambda _, __, output, name=name: look(name, output))
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and type(layer).forward is not nn.Linear.forward
    ]
    if handles:
        was_training = model.training
        model.eval()(input_ids=torch.tensor([[0, 1, 2]], device=model.device), use_cache=False)
        model.train(was_training)
    for handle in handles:
        handle.remove()
    return found


def adapted_layers(model: nn.Module) -> list[str]:
    """List the layers that have adapters."""
    return [name for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)]


def save_adapter(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    base_dir: Path,
    base_hash: str,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Save the adapters, the tokenizer, and the content hash of the weights that they belong to.

    Args:
        base_dir: the folder whose weights the adapters were trained above.
        base_hash: `model_hash` of that folder when training began.
        state: the weights, gathered, where processes hold only their shares.

    Raises:
        TrainError: a tensor in the file is empty or lacks, as sharding can leave it.
    """
    # peft would name the folder that the config remembers: the base under an SFT adapter, not the SFT policy.
    model.active_peft_config.base_model_name_or_path = str(base_dir.resolve())
    weights = None if state is None else dict(state)
    model.save_pretrained(str(folder), state_dict=weights)
    tokenizer.save_pretrained(str(folder))
    write_for_older_readers(folder)
    note_base(folder, base_hash)
    wanted = get_peft_model_state_dict(model, state_dict=weights)
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        sizes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    wrong = [name for name, weight in wanted.items() if sizes.get(name) != tuple(weight.shape) or not weight.numel()]
    if wrong or not wanted:
        raise TrainError(
            f"{folder} lacks {len(wrong)} of {len(wanted)} adapter weights {', '.join(sorted(wrong)[:3])}; the trained "
            "adapters could not be saved."
        )


def merge_checked(model: PeftModel, probe: list[int], folder: Path) -> Any:
    """Merge adapters into the float32 weights they stand above, and compare outputs before and after.

    Args:
        probe: token ids to compare on.
        folder: where the adapters were saved, for the message.

    Returns:
        The plain model.

    Raises:
        TrainError: the merged model computes something else.
    """
    model.eval()
    device = next(model.parameters()).device
    ids_BT = torch.tensor([probe], device=device)
    before = _output(model, ids_BT)
    merged = model.merge_and_unload(safe_merge=True)
    delta = float((_output(merged, ids_BT) - before).abs().max())
    limit = MAX_MERGE_DELTA * max(1.0, float(before.abs().max()))
    if not delta <= limit:
        raise TrainError(
            f"merging the adapters changed the outputs by {delta:.2e}, more than {limit:.2e}; the adapters are in "
            f"{folder}, the merged model was not saved."
        )
    return merged


def merge_from_disk(folder: Path, trained: Any, probe: list[int]) -> Any:
    """Merge saved adapters into the base as it lies on disk, never into weights that were rounded to few bits.

    Args:
        folder: of the adapters, from `save_adapter`.
        trained: the model they were trained in, for its kind and its padding token.
        probe: token ids to compare merged and unmerged outputs on.

    Raises:
        ModelError: the base has changed, or weights are missing.
        TrainError: the merged model computes something else than the float32 base with adapters.
    """
    merged = merge_checked(load_adapted(folder, reward_model=not trained.can_generate()), probe, folder)
    merged.__dict__.pop("peft_config", None)
    merged.config.get_text_config().pad_token_id = trained.config.get_text_config().pad_token_id
    merged.config.pad_token_id = trained.config.pad_token_id
    return merged


def is_quantized(model: nn.Module) -> bool:
    """Say whether a model's frozen weights stand in fewer bits than they were saved in."""
    return bool(getattr(model, "is_quantized", False) or getattr(model, "is_loaded_in_4bit", False))


def float32_adapters(model: nn.Module) -> None:
    """Give adapters float32 weights back, which TRL rounds to bfloat16 above a quantised model.

    Updates smaller than bfloat16's steps of 2⁻⁸ of a weight would be lost otherwise.
    """
    for weight in model.parameters():
        if weight.requires_grad and weight.dtype == torch.bfloat16:
            weight.data = weight.data.float()


@torch.no_grad()
def _output(model: Any, ids_BT: Tensor) -> Tensor:
    return model(input_ids=ids_BT, use_cache=False).logits.float()
