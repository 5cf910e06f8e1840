"""Read a saved model back: what is on disk must be what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from posttrain.core.model_files import weight_files
from posttrain.core.models import init_reward_model, load_causal_lm
from posttrain.train.errors import TrainError

MAX_RELOAD_DELTA = 1e-5
"""Largest difference of outputs between the model in memory and the one read back, relative to the largest above 1."""


def check_saved(model: Any, out_dir: Path, probe: list[int]) -> None:
    """Compare the files of a saved model, and what a fresh load of them computes, with the model in memory.

    The load holds the weights a second time, in float32: 4 bytes for each number.

    Args:
        model: the plain model as it was saved, adapters merged.
        probe: token ids to compare outputs on.

    Raises:
        TrainError: the folder does not hold the trained model.
    """
    model.eval()
    check_files(model, out_dir)
    wanted = _outputs(model, probe)
    # A reward model is loaded as one that is to be trained: the other way to load it lays its layers out anew.
    again: Any = init_reward_model(out_dir, seed=0) if hasattr(model, "score") else load_causal_lm(out_dir)
    delta = float((_outputs(again.to(wanted.device).eval(), probe) - wanted).abs().max())
    limit = MAX_RELOAD_DELTA * max(1.0, float(wanted.abs().max()))
    if not delta <= limit:
        raise TrainError(
            f"the model read back from {out_dir} gives other outputs than the trained one: they differ by {delta:.2e}, "
            f"more than {limit:.2e}. Do not use this folder; its checkpoints, if there are any, are kept."
        )


def check_files(model: Any, out_dir: Path) -> None:
    """Compare the safetensors of a folder with a model: bytes in all, and no tensor that is empty.

    Raises:
        TrainError: gives both sizes, or the empty tensors.
    """
    # Tied weights share their memory and are written once.
    expected = {tensor.data_ptr(): tensor.nbytes for tensor in model.state_dict().values()}
    found, empty = 0, []
    for path in weight_files(out_dir):
        with open(path, "rb") as raw:
            found += path.stat().st_size - 8 - int.from_bytes(raw.read(8), "little")  # what follows the header
        with safe_open(path, framework="pt") as file:
            empty += [name for name in file.keys() if 0 in file.get_slice(name).get_shape()]  # noqa: SIM118
    if empty or found != sum(expected.values()):
        told = f"the tensors {', '.join(empty[:5])} are empty" if empty else f"its weights are {found:,} bytes"
        raise TrainError(
            f"{out_dir} does not hold the trained model: {told}, and the model in memory has "
            f"{sum(expected.values()):,} bytes. Do not use this folder; its checkpoints, if there are any, are kept."
        )


@torch.no_grad()
def _outputs(model: Any, probe: list[int]) -> Tensor:
    device = next(model.parameters()).device
    return model(input_ids=torch.tensor([probe], device=device), use_cache=False).logits.float()
