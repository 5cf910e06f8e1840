"""From a trained model, whole or in shares, with adapters or without, to a finished folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedTokenizerBase, Trainer

from posttrain.core.models import save_model
from posttrain.train.adapters import ADAPTER_FOLDER, is_quantized, merge_checked, merge_from_disk, save_adapter
from posttrain.train.read_back import check_saved
from posttrain.train.sharding import gather, is_sharded, whole_model


def save_trained(
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerBase,
    base_dir: Path,
    out_dir: Path,
    probe: list[int],
    base_hash: str,
) -> None:
    """Let the first process save; every process has to call this, since all may have to give their shares.

    Adapters are saved beside the model and merged in float32: where they stand above the float32 weights, else into
    the base as it lies on disk.

    Args:
        base_dir: folder that the training started from.
        probe: token ids on which merged adapters must give the same output as unmerged ones.
        base_hash: content of `base_dir` when training began.

    Raises:
        ModelError: a weight is empty, NaN or infinite, or the base has changed.
        TrainError: a merge changed the outputs, or weights are lacking.
    """
    model: Any = trainer.model
    if not is_sharded(model):
        model = trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    state = gather(model) if is_sharded(model) else None
    if not trainer.is_world_process_zero():
        return
    if isinstance(model, PeftModel):
        folder = out_dir / ADAPTER_FOLDER
        save_adapter(model, tokenizer, folder, base_dir, base_hash, state)
        if state is None and not is_quantized(model):
            model = merge_checked(model, probe, folder)
        else:
            model = merge_from_disk(folder, model, probe)
    elif state is not None:
        model = whole_model(model, state)
    save_model(model, tokenizer, out_dir)
    check_saved(model, out_dir, probe)
