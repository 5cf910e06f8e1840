"""Keys and values of the running rows, allocated once: a prompt's stand once for all its samples.

A row's own tokens lie in a slot of their own, from column 0; its prompt's in a place that it shares with the prompt's
other samples.

Shapes: S slots, P prompt places, N rows of a pass, G key-value heads, C columns of a slot, W columns of a prompt,
D head size.
"""

from __future__ import annotations

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import CacheLayerMixin


class SlotCache:
    """Hold the keys and values of up to S rows of up to P prompts, layer by layer.

    What lies beyond a row's or a prompt's own length is stale and must be masked.
    """

    def __init__(self, num_slots: int, slot_columns: int, num_prompts: int, prompt_columns: int) -> None:
        self.num_slots = num_slots
        self.slot_columns = slot_columns
        self.num_prompts = num_prompts
        self.prompt_columns = prompt_columns
        self.keys_SGCD: list[Tensor] = []
        self.values_SGCD: list[Tensor] = []
        self.prompt_keys_PGWD: list[Tensor] = []
        self.prompt_values_PGWD: list[Tensor] = []

    def fill_prompts(self, places_P: Tensor, prefilled: DynamicCache) -> None:
        """Take in the prompts of a prefill, each at its place."""
        for layer, filled in enumerate(prefilled.layers):
            assert isinstance(filled, CacheLayerMixin)  # other layers were refused by require_known_layers
            keys, values = filled.keys, filled.values
            assert keys is not None and values is not None
            if layer == len(self.keys_SGCD):
                self._allocate(keys, values)
            self.prompt_keys_PGWD[layer][places_P, :, : keys.shape[2]] = keys
            self.prompt_values_PGWD[layer][places_P, :, : values.shape[2]] = values

    def write(self, layer: int, slots_N: Tensor, columns_N: Tensor, keys_NGD: Tensor, values_NGD: Tensor) -> None:
        """Write one token of each row of a pass."""
        self.keys_SGCD[layer][slots_N, :, columns_N] = keys_NGD
        self.values_SGCD[layer][slots_N, :, columns_N] = values_NGD

    def arrange_rows(self, order_N: Tensor, columns: int) -> None:
        """Move rows to the front, in this order; only their first columns hold anything."""
        for store in (*self.keys_SGCD, *self.values_SGCD):
            store[: len(order_N), :, :columns] = store[order_N, :, :columns]

    def _allocate(self, keys: Tensor, values: Tensor) -> None:
        # Zeros, not empty memory: a masked NaN would still poison the weighted sum of the values.
        rows, prompts = (self.num_slots, self.slot_columns), (self.num_prompts, self.prompt_columns)
        for stores, like in (
            ((self.keys_SGCD, self.prompt_keys_PGWD), keys),
            ((self.values_SGCD, self.prompt_values_PGWD), values),
        ):
            for store, (number, columns) in zip(stores, (rows, prompts), strict=True):
                store.append(like.new_zeros(number, like.shape[1], columns, like.shape[3]))
