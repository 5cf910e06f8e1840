"""Forward passes of training: packs that share prompts, and a head that sees only what a loss reads.

Rows go through the model in packs (posttrain/core/packing.py), where no token is padding and a prompt's keys and values
are computed once for its answers. A model whose attention packs cannot hold is run on padded rows, which give the same
numbers. Before a run the two are compared on some of its rows, and padded rows with the same rows alone.

The output head is the largest matrix product of a small model. A hook in front of it takes the hidden states of the
wanted positions alone; whatever a model does besides (soft caps, scales, adapters on the head) is left to the model.

Shapes: B rows, T positions, N wanted positions, H hidden width, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posttrain.core.errors import MISFITS
from posttrain.core.packing import Pack
from posttrain.core.row_angles import follows_length
from posttrain.core.segment_attention import NAME, UnsupportedModel, layout
from posttrain.core.shared_prefix import only_at, rounding_limit, why_not_packed
from posttrain.train.batches import Array
from posttrain.train.errors import TrainError
from posttrain.train.head import fused_logprobs
from posttrain.train.losses import entropy_and_hits, token_logprobs

log = logging.getLogger(__name__)

# A cap lets small logits through as they are; those of published models stand at 15 to 50.
_LARGE_LOGITS = (300.0, 30_000.0)

Part = dict[str, Any]
"""What `make_part` gives, on the model's device."""


class Forward:
    """Run a model in training.

    Args:
        model: a plain model of transformers, with a head for tokens or scores; adapters may be put into it later.
        longest: tokens of the longest row.

    Attributes:
        why_padded: why rows are padded instead of packed, None where they are packed.
    """

    def __init__(self, model: Any, longest: int) -> None:
        self._model = model
        self._own_attention: str = model.config._attn_implementation
        self.why_padded = why_not_packed(model, longest)
        self._follows_length = follows_length(model.config)
        self._linear: tuple[nn.Module | None, bool] = (None, False)  # a head, and whether its product is the logits

    @property
    def head(self) -> nn.Module:
        """Return the layer that turns hidden states into logits or scores, with adapters where it has some."""
        return self._model.score if self._scores else self._model.get_output_embeddings()  # type: ignore[no-any-return]

    @property
    def packs(self) -> bool:
        """Say whether rows go through the model in packs."""
        return self.why_padded is None

    def compare(self, packed: Part, padded: Part) -> None:
        """Run the same rows both ways in float32, and take the padded way from now on where they differ.

        Args:
            packed: a part with the `places` of some of its tokens.
            padded: the same rows padded, with the places of the same tokens.
        """
        if self.why_padded is not None:
            return
        try:
            with self._as_it_is():
                packed, padded = (to_device(part, self._model.device) for part in (packed, padded))
                alone_NH = self.hidden_at(self._model, padded, padded["places"])
                with self.attention():
                    together_NH = self.hidden_at(self._model, packed, packed["places"])
                    self._model.train()  # what layers ask of attention in training only
                    self.hidden_at(self._model, packed, packed["places"])
            distance, limit = self._distance(together_NH, alone_NH)
            if not distance <= limit:
                self.why_padded = f"hidden states in packs are off by {distance:.2g} (limit {limit:g})"
        except torch.OutOfMemoryError:
            raise
        except MISFITS as error:  # a TypeError, for example, of a layer that takes no further arguments
            self.why_padded = str(error) or type(error).__name__

    def check_padding(self, padded: Part) -> None:
        """Refuse a model in which a row's hidden states depend on the rows beside it.

        Args:
            padded: a short and a long row, with the `places` of some of their tokens.

        Raises:
            TrainError: gives the difference.
        """
        padded = to_device(padded, self._model.device)
        ids_BT, places_N = padded["ids"], padded["places"]
        distances = []
        with self._as_it_is():
            together_NH = self.hidden_at(self._model, padded, places_N)
            for row, positions_T in enumerate(padded["positions"]):
                own_N = places_N // ids_BT.shape[1] == row
                length = int(positions_T.max()) + 1
                alone = {"ids": ids_BT[row : row + 1, :length], "positions": positions_T[None, :length]}
                alone_NH = self.hidden_at(self._model, alone, places_N[own_N] % ids_BT.shape[1])
                distances.append(self._distance(together_NH[own_N], alone_NH))
        distance, limit = max(distances)
        if distance > limit:  # NaN is left to the guards, which name its rows
            raise TrainError(
                f"{type(self._model).__name__} gives a short row other hidden states beside a long one than alone: "
                f"they are off by {distance:.2g} (limit {limit:g}), so it cannot be trained on padded batches. "
                "Set max_tokens so that all rows are short, or take another model."
            )

    def _distance(self, hidden_NH: Tensor, wanted_NH: Tensor) -> tuple[float, float]:
        """Return how far hidden states are apart, as a share of their length, and what rounding explains."""
        tiny = torch.finfo(wanted_NH.dtype).tiny  # a head may be given nothing but zeros
        share_N = (hidden_NH - wanted_NH).norm(dim=1) / wanted_NH.norm(dim=1).clamp(min=tiny)
        return float(share_N.max()) if len(share_N) else 0.0, rounding_limit(self._model, wanted_NH.dtype)

    @contextmanager
    def _as_it_is(self) -> Iterator[None]:
        """Run the model in evaluation mode and without gradients; whatever random numbers it draws do not count."""
        was_training = self._model.training
        devices = [self._model.device] if self._model.device.type == "cuda" else []
        self._model.eval()
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=devices):
                yield
        finally:
            self._model.train(was_training)

    @contextmanager
    def attention(self) -> Iterator[None]:
        """Let the model attend as packs need it, in forward and backward passes."""
        if self.why_padded is not None:
            yield
            return
        with self._attending(NAME):
            yield

    @contextmanager
    def _attending(self, name: str) -> Iterator[None]:
        before = self._model.config._attn_implementation
        self._model.set_attn_implementation(name)
        try:
            yield
        finally:
            self._model.set_attn_implementation(before)

    def hidden_at(self, model: nn.Module, part: Part, places_N: Tensor) -> Tensor:
        """Run the model and give the hidden states in front of the head, hidden_NH.

        Args:
            model: the model, possibly wrapped for adapters or several processes.
            places_N: flat places of the part's tokens.
        """
        seen: list[Tensor] = []

        def remember(hidden_BTH: Tensor) -> Tensor:
            if not seen:
                seen.append(hidden_BTH.reshape(-1, hidden_BTH.shape[-1]).index_select(0, places_N))
            return hidden_BTH if self._scores else hidden_BTH[:, :0]

        with _before(self.head, remember):
            self._run(model, part, places_N)
        if not seen:
            raise UnsupportedModel(f"{type(self._model).__name__} never calls its output layer")
        return seen[0]

    def scores_at(self, model: nn.Module, part: Part, places_N: Tensor) -> Tensor:
        """Run a reward model and give the scores at some places, scores_N, with the head in float32.

        The caller says where a row ends, which is where the model's class would read it (core/pooling.py).
        """
        hidden_NH = self.hidden_at(model, part, places_N)
        with torch.autocast(device_type=hidden_NH.device.type, enabled=False):
            return self.head(hidden_NH.float()).squeeze(-1)  # type: ignore[no-any-return]

    def logits_at(self, model: nn.Module, part: Part, places_N: Tensor) -> Tensor:
        """Run the model and project only the wanted positions: logits_NV in the model's own dtype."""
        seen: list[bool] = []

        def keep(hidden_BTH: Tensor) -> Tensor:
            seen.append(True)
            return hidden_BTH.reshape(-1, hidden_BTH.shape[-1]).index_select(0, places_N).unsqueeze(0)

        with _before(self.head, keep):
            logits = self._run(model, part, places_N)
        if seen:
            return logits[0]
        # A model that multiplies by the head's weight without calling the head gives logits of every position.
        return logits.reshape(-1, logits.shape[-1]).index_select(0, places_N)

    def logprobs_at(
        self, model: nn.Module, part: Part, places_N: Tensor, targets_N: Tensor, measure: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the model and give log p(target) at the wanted positions; see `fused_logprobs` for what is returned."""
        if self._head_is_linear():
            hidden_NH = self.hidden_at(model, part, places_N)
            weight_VH, bias_V = self.head.weight, getattr(self.head, "bias", None)
            return fused_logprobs(hidden_NH, weight_VH, bias_V, targets_N, measure)  # type: ignore[arg-type]
        logits_NV = self.logits_at(model, part, places_N)
        logprobs_N = token_logprobs(logits_NV, targets_N)
        if not measure:
            return logprobs_N, logprobs_N.new_empty(0), logprobs_N.new_empty(0)
        return logprobs_N, *entropy_and_hits(logits_NV, targets_N)

    @property
    def _scores(self) -> bool:
        return hasattr(self._model, "score")

    def _head_is_linear(self) -> bool:
        """Say whether the model's logits are its head's product and nothing more, found out on three tokens."""
        head = self.head
        if self._linear[0] is not head:
            # A weight that is sharded over processes is whole only while the model itself runs.
            whole = type(head) is nn.Linear and type(head.weight) is nn.Parameter and head.weight.numel() > 0
            self._linear = (head, whole and self._logits_are_the_product(head))
        return self._linear[1]

    def _logits_are_the_product(self, head: nn.Module) -> bool:
        """Compare logits with the head's product, as they come and so large that a cap would show."""
        size = 0.0
        for wanted in (None, *_LARGE_LOGITS):
            scale = 1.0 if wanted is None or size == 0.0 else wanted / size
            product, logits = self._product_and_logits(head, scale)
            if product is None:
                return False
            largest = float(product.abs().max())
            if not torch.allclose(product, logits, rtol=1e-4, atol=1e-4 * max(1.0, largest)):
                return False
            size = largest / scale
        return True

    def _product_and_logits(self, head: nn.Module, scale: float) -> tuple[Tensor | None, Tensor]:
        """Run three tokens with the hidden states in front of the head multiplied; None where it is not called."""
        seen: list[Tensor] = []

        def scaled(hidden_BTH: Tensor) -> Tensor:
            seen.append(hidden_BTH * scale)
            return seen[-1]

        ids_BT = torch.tensor([[0, 1, 2]], device=self._model.device)
        without = torch.autocast(self._model.device.type, enabled=False)
        with _before(head, scaled), without, self._as_it_is(), self._attending(self._own_attention):
            logits = self._model(input_ids=ids_BT, use_cache=False).logits.float()
            if not seen:
                return None, logits
            product = F.linear(seen[0], head.weight, getattr(head, "bias", None))  # type: ignore[arg-type]
        return product.float(), logits

    def _run(self, model: nn.Module, part: Part, places_N: Tensor) -> Tensor:
        pack: Pack | None = part.get("pack")
        with ExitStack() as stack:
            if pack is None:
                inputs: dict[str, Any] = {"input_ids": part["ids"]}
                if self._follows_length:
                    inputs["position_ids"] = part["positions"]
            else:
                positions = torch.tensor([pack.positions], device=part["ids"].device)
                inputs = {"input_ids": part["ids"], "position_ids": positions}
                inputs["shared_prefix"] = layout(pack, part["ids"].device, learns=True)
                if not getattr(self._model, "is_activation_checkpointing", False):  # which runs a layer a second time
                    stack.enter_context(only_at(self._model, places_N.unique()))
            return model(**inputs, use_cache=False).logits  # type: ignore[no-any-return]


class Rows(Protocol):
    """What lays rows out for a forward pass; `longest` are the tokens of each row's longest sequence."""

    longest: Array

    def part(self, numbers: list[int]) -> Part: ...


R = TypeVar("R", bound=Rows)


def prepare_forward(model: Any, make: Callable[[bool], R]) -> tuple[Forward, R]:
    """Choose how rows go through a model, and give what lays them out so.

    Args:
        make: makes it, for packs or for padded rows.
    """
    packed = make(True)
    forward = Forward(model, int(packed.longest.max()))
    order = np.argsort(packed.longest)
    rows = order[-2:].tolist()
    forward.compare(packed.part(rows), make(False).part(rows))
    if forward.packs:
        return forward, packed
    log.warning("rows go through the model padded, not in packs, which takes longer: %s", forward.why_padded)
    padded = make(False)
    forward.check_padding(padded.part([int(order[0]), int(order[-1])]))
    return forward, padded


def to_device(part: Part, device: Any) -> Part:
    """Move a part's tensors."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in part.items()}


@contextmanager
def _before(layer: nn.Module, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    handle = layer.register_forward_pre_hook(lambda _, inputs: (function(inputs[0]), *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()
