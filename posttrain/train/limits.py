"""What a training section asks for that cannot be had here, found before anything is loaded.

Loads no heavy library by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from posttrain.config import Execution, TrainConfig
from posttrain.train.errors import TrainError


def limits(load_in_4bit: bool, checkpoint_steps: int | None, device: str, sharding: str) -> Iterator[str]:
    """Yield every reason why a training cannot be carried out on this machine.

    Args:
        load_in_4bit: as in the section's `lora`.
        checkpoint_steps: as in the section.
        device: as in `execution`.
        sharding: as in `execution`.
    """
    if load_in_4bit:
        if find_spec("bitsandbytes") is None:
            yield "lora.load_in_4bit needs bitsandbytes, which is not installed: pip install bitsandbytes"
        # A CPU would do worse: bitsandbytes packs weights in a pass without gradients, and then lets none through.
        if device == "cpu" or not _sees_gpu():
            yield f"lora.load_in_4bit needs an NVIDIA GPU, and execution.device {device} gives none: leave it out"
        if sharding != "none":
            yield f"lora.load_in_4bit does not go with execution.sharding {sharding}: set sharding: none"
    if sharding != "none" and checkpoint_steps is not None:
        yield f"checkpoint_steps cannot resume under execution.sharding {sharding} yet: leave one of the two out"


def check_limits(config: TrainConfig, execution: Execution) -> None:
    """Refuse a training that cannot be carried out on this machine.

    Raises:
        TrainError: lists all reasons.
    """
    load_in_4bit = config.lora is not None and config.lora.load_in_4bit
    found = list(limits(load_in_4bit, config.checkpoint_steps, execution.device, execution.sharding))
    if found:
        raise TrainError("; ".join(found))


def _sees_gpu() -> bool:
    import torch  # only where a config asks for 4 bits

    return torch.cuda.is_available()
