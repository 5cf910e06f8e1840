"""Rotary positions whose angles follow the length of a row, never that of the longest row beside it.

With 'longrope' (Phi 3.5, Phi 4 mini) and 'dynamic' scaling, transformers picks the angles of a whole forward pass by
its largest position, and 'dynamic' keeps them for later passes. Here each row of a pass gets the angles that it gets
alone, in a model that has just been loaded.

Shapes: B rows, T positions.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

_KINDS = ("dynamic", "longrope")


def follows_length(config: PretrainedConfig) -> bool:
    """Tell whether a row's angles depend on how long it is."""
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    return any(kind in str(rope) for kind in _KINDS)


def separate_rows(model: nn.Module) -> None:
    """Let every rotary layer of a model work row by row; callers pass positions that tell how long a row is.

    A row's length is its largest position + 1, so padding is to repeat the position of the last token.
    """
    for module in model.modules():
        if any(kind in str(getattr(module, "rope_type", "")) for kind in _KINDS):
            module.forward = MethodType(_by_row, module)  # bound to the copy where a model is copied


@torch.no_grad()
def _by_row(self: Any, x: Tensor, position_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Run a rotary layer once for all rows that are not stretched, and once for each other length."""
    groups: dict[int, list[int]] = {}
    limit = _unstretched(self)
    for row, length in enumerate((position_ids.amax(dim=-1) + 1).tolist()):
        groups.setdefault(max(length, limit), []).append(row)
    outputs = []
    for rows in groups.values():
        _forget(self)
        outputs.append(type(self).forward(self, x, position_ids[rows], *args, **kwargs))
    if len(outputs) == 1:
        return outputs[0]
    back_B = torch.tensor([row for rows in groups.values() for row in rows], device=x.device).argsort()
    if isinstance(outputs[0], Tensor):
        return torch.cat(outputs)[back_B]
    return tuple(torch.cat(column)[back_B] for column in zip(*outputs, strict=True))


def _unstretched(layer: Any) -> int:
    """Return the tokens up to which a row's angles are those of any other."""
    lengths = [int(layer.original_max_seq_len)]
    rope = layer.config.rope_parameters
    for settings in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if settings.get("original_max_position_embeddings"):
            lengths.append(int(settings["original_max_position_embeddings"]))
    return min(lengths)


def _forget(layer: Any) -> None:
    """Take back what an earlier, longer pass has left in a layer."""
    for name in [name for name, _ in layer.named_buffers(recurse=False) if name.endswith("original_inv_freq")]:
        own = name.replace("original_inv_freq", "inv_freq")
        setattr(layer, own, getattr(layer, name).to(getattr(layer, own).device, copy=True))
        if hasattr(layer, name.replace("original_inv_freq", "max_seq_len_cached")):
            setattr(layer, name.replace("original_inv_freq", "max_seq_len_cached"), layer.original_max_seq_len)
