"""Weights divided among processes with FSDP2: each holds its share of weights, gradients and optimizer states.

A layer's weights are gathered just before it runs and let go after it. torch averages the gradients of the processes,
as it does without sharding, so the steps are the same.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from accelerate import init_empty_weights
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed import get_world_size
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from posttrain.core.noise_off import remember_noise
from posttrain.train.errors import TrainError


def shard(model: nn.Module, device: str, dtype: str = "float32") -> None:
    """Divide a model's weights among all processes of the group, in place.

    Each transformer block is a unit; embeddings, last norm and head form another, which stays gathered from forward
    to backward. Frozen weights are divided too.

    Args:
        model: the same in every process.
        device: of this process.
        dtype: with `bfloat16` the blocks are gathered in it; shares and sums of gradients are float32.

    Raises:
        TrainError: the architecture does not say which modules are its blocks.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    names = set(getattr(base, "_no_split_modules", None) or ())
    blocks = [module for module in base.modules() if type(module).__name__ in names]
    if not blocks:
        raise TrainError(f"{type(base).__name__} names no blocks to divide (_no_split_modules); use sharding: none.")
    mesh = init_device_mesh(torch.device(device).type, (get_world_size(),))
    # Inputs stay as they are: without sharding the sum that runs through the blocks is float32 too.
    narrow = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=narrow if dtype == "bfloat16" else MixedPrecisionPolicy())
    fully_shard(model, mesh=mesh)


def is_sharded(model: nn.Module) -> bool:
    """Say whether processes hold shares of this model."""
    return isinstance(model, FSDPModule)


def gather(model: nn.Module) -> dict[str, Tensor]:
    """Gather all weights in the memory of the first process; to be called by every process, the others get nothing."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast(dict[str, Tensor], get_model_state_dict(model, options=options))


def whole_model(model: Any, state: dict[str, Tensor]) -> Any:
    """Return a plain model with gathered weights, without a second copy of them.

    Raises:
        TrainError: a weight was not gathered.
    """
    (kind,) = (base for base in type(model).__bases__ if base is not FSDPModule)
    with init_empty_weights():
        plain = kind(model.config)
    plain.load_state_dict(state, strict=False, assign=True)
    plain.tie_weights()
    lost = [name for name, weight in plain.named_parameters() if weight.is_meta]
    if lost:
        raise TrainError(f"{len(lost)} weights were not gathered, {lost[0]} among them; nothing was saved.")
    if plain.can_generate():
        plain.generation_config = model.generation_config
    remember_noise(plain, of=model)
    return plain
