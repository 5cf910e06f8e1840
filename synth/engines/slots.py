"""A key-value cache of slots: allocated once, each row at its own length, freed and refilled one row at a time.

Shapes: S slots, N rows in use, P prompts, H key-value heads, C capacity in tokens, T positions, D head size.
"""

from __future__ import annotations

import torch
from transformers import DynamicCache
from transformers.cache_utils import CacheLayerMixin


class SlotCache:
    """Hold keys and values of up to S rows, every row from column 0 to its own length.

    A model sees the first `num_rows` slots up to the longest row; what lies beyond a row's own length is stale and
    must be masked. It stands in for a transformers cache for steps of one token per row.
    """

    # Read by the mask functions of transformers, which take our 4D mask as it is.
    is_sliding = (False,)
    is_compileable = False

    def __init__(self, num_slots: int, capacity: int, device: torch.device) -> None:
        self.num_slots = num_slots
        self.capacity = capacity
        self.lengths_S = torch.zeros(num_slots, dtype=torch.long, device=device)
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []
        self._rows_N = torch.zeros(0, dtype=torch.long, device=device)
        self._columns_N = self._rows_N
        self._span = 0

    def fill(
        self, slots_N: torch.Tensor, prefilled: DynamicCache, owners_N: torch.Tensor, lengths_N: torch.Tensor
    ) -> None:
        """Copy prompt `owners_N[i]` of a prefill into slot `slots_N[i]`; one prompt may go to many slots."""
        for layer, filled in enumerate(prefilled.layers):
            assert isinstance(filled, CacheLayerMixin)  # other layers were refused by require_known_layers
            keys_PHTD, values_PHTD = filled.keys, filled.values
            assert keys_PHTD is not None and values_PHTD is not None
            if layer == len(self._keys):
                self._allocate(keys_PHTD, values_PHTD)
            width = keys_PHTD.shape[2]
            self._keys[layer][slots_N, :, :width] = keys_PHTD[owners_N]
            self._values[layer][slots_N, :, :width] = values_PHTD[owners_N]
        self.lengths_S[slots_N] = lengths_N

    def begin_step(self, num_rows: int, span: int) -> None:
        """Aim the next forward pass at the first `num_rows` slots; each appends one token at its own length."""
        self._rows_N = torch.arange(num_rows, device=self.lengths_S.device)
        self._columns_N = self.lengths_S[:num_rows].clone()
        self._span = span

    def end_step(self, active_N: torch.Tensor) -> None:
        """Count the token that the pass wrote for the slots `active_N`."""
        self.lengths_S[active_N] += 1

    def free(self, slots_N: torch.Tensor) -> None:
        """Forget rows; a freed slot may still be part of a pass and then writes to its first column."""
        self.lengths_S[slots_N] = 0

    def move(self, from_N: torch.Tensor, to_N: torch.Tensor) -> None:
        """Copy rows to other slots, so that the rows in use stay together at the front."""
        width = int(self.lengths_S[from_N].max())
        for keys_SHCD, values_SHCD in zip(self._keys, self._values, strict=True):
            keys_SHCD[to_N, :, :width] = keys_SHCD[from_N, :, :width]
            values_SHCD[to_N, :, :width] = values_SHCD[from_N, :, :width]
        self.lengths_S[to_N] = self.lengths_S[from_N]

    def update(
        self, keys_NH1D: torch.Tensor, values_NH1D: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write this step's token of one layer and return the layer's keys and values; called by the model."""
        keys_SHCD, values_SHCD = self._keys[layer_idx], self._values[layer_idx]
        keys_SHCD[self._rows_N, :, self._columns_N] = keys_NH1D[:, :, 0]
        values_SHCD[self._rows_N, :, self._columns_N] = values_NH1D[:, :, 0]
        num_rows = len(self._rows_N)
        return keys_SHCD[:num_rows, :, : self._span], values_SHCD[:num_rows, :, : self._span]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Give the number of columns before this step; called by the model."""
        return self._span - 1

    def _allocate(self, keys_PHTD: torch.Tensor, values_PHTD: torch.Tensor) -> None:
        # Zeros, not empty memory: a masked NaN would still poison the weighted sum of the values.
        for store, like in ((self._keys, keys_PHTD), (self._values, values_PHTD)):
            shape = (self.num_slots, like.shape[1], self.capacity, like.shape[3])
            store.append(torch.zeros(shape, dtype=like.dtype, device=like.device))
