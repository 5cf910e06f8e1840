"""Low-rank adapters: kept beside the model, merged in float32, and the merge checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from posttrain.core.files import atomic_write
from posttrain.core.models import model_hash
from posttrain.train.errors import TrainError

ADAPTER_FOLDER = "adapter"
MAX_MERGE_DELTA = 1e-4
"""Largest difference of outputs between merged and unmerged weights, relative to the largest output above 1."""


def merge_checked(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, probe: list[int], folder: Path, base_dir: Path
) -> Any:
    """Save the adapters, merge them into the float32 weights, and compare outputs before and after.

    Args:
        probe: token ids to compare on.
        folder: receives the adapters, the tokenizer, and the content hash of the weights they belong to.
        base_dir: the folder whose weights the adapters were trained on.

    Returns:
        The plain model.

    Raises:
        TrainError: the merged model computes something else.
    """
    model.eval()
    device = next(model.parameters()).device
    ids_BT = torch.tensor([probe], device=device)
    before = _output(model, ids_BT)
    # peft would name the folder that the config remembers: the base under an SFT adapter, not the SFT policy.
    model.active_peft_config.base_model_name_or_path = str(base_dir.resolve())
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    atomic_write(folder / "base.json", json.dumps({"model_hash": model_hash(base_dir)}))
    merged = model.merge_and_unload(safe_merge=True)
    delta = float((_output(merged, ids_BT) - before).abs().max())
    limit = MAX_MERGE_DELTA * max(1.0, float(before.abs().max()))
    if not delta <= limit:
        raise TrainError(
            f"merging the adapters changed the outputs by {delta:.2e}, more than {limit:.2e}; the adapters are in "
            f"{folder}, the merged model was not saved."
        )
    return merged


@torch.no_grad()
def _output(model: Any, ids_BT: Tensor) -> Tensor:
    return model(input_ids=ids_BT, use_cache=False).logits.float()
