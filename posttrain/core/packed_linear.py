"""Matrix products with weights laid out for the processor once, not in every call.

torch's own linear layers leave float32 products on CPU to a library that lays the weights out anew each time and is
slow for the few rows of a decoding step; oneDNN takes weights in its own order, made once (LOG.md, 2026-11-27). A row's
result has the same bits whatever the other rows are, for two or more rows, and for any number of threads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# The order of the weights is chosen for this many rows, and serves any number.
_ROWS = 64
_DTYPES = {torch.float32, torch.bfloat16}


class PackedLinear(nn.Module):
    """Stand in for a linear layer whose weights no longer change; nothing can be learned through it.

    Attributes:
        in_features: width of the inputs.
        out_features: width of the outputs.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach()

    @property
    def weight(self) -> Tensor:
        """Return the weights as a linear layer has them, for models that read them instead of calling the layer."""
        return self._weight.to_dense()

    def forward(self, rows: Tensor) -> Tensor:
        """Multiply (…, in_features) to (…, out_features)."""
        return torch.ops.mkldnn._linear_pointwise(rows, self._weight, self.bias, "none", [], "")

    def extra_repr(self) -> str:
        """Say the widths, as a linear layer does."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def pack_linears(model: nn.Module) -> int:
    """Replace the linear layers of a model that is only run from now on; where the processor has no use for it, none.

    Layers that are watched by hooks, or are more than a plain linear layer (quantised ones), stay.

    Returns:
        How many layers were replaced.
    """
    replaced = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            watched = child._forward_pre_hooks or child._forward_hooks
            if type(child) is nn.Linear and not watched and _serves(child):
                setattr(parent, name, PackedLinear(child))
                replaced += 1
    return replaced


def _serves(linear: nn.Linear) -> bool:
    weight = linear.weight
    if weight.device.type != "cpu" or weight.dtype not in _DTYPES or not torch.backends.mkldnn.is_available():
        return False
    if not (hasattr(torch.ops.mkldnn, "_linear_pointwise") and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")):
        return False
    return weight.dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
