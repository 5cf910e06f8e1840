"""Checks that stop a run which looks healthy and is not.

Each refusal that a user may want to override has a name that goes into the training section's `allow`; the field is
part of the recipe, so an override is on record.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from posttrain.train.errors import TrainError
from posttrain.train.losses import LN2

MAX_SKIPPED = 3
"""Steps in a row that `skip_nan` leaves out."""
STUCK_STEPS = 50
"""Steps in a row at ln 2 that mean the policy does not move."""
STUCK_WITHIN = 1e-4
"""Distance from ln 2, in nats, that counts as still there."""
SATURATED_STEPS = 20
"""Steps in a row at accuracy 1 and a vanishing loss that mean there is nothing left to learn."""
SATURATED_LOSS = 1e-3
"""Preference loss, in nats, that counts as vanished."""


def check_loss(loss: float, step: int, rows: Sequence[int], allow: Sequence[str] = ()) -> None:
    """Refuse a loss that is no number, before the optimizer sees its gradient, and name the rows.

    Raises:
        TrainError: the loss is NaN or infinite. The override, `skip_nan`, lets the step be left out: with such a
            gradient the weights would be lost.
    """
    if not math.isfinite(loss) and "skip_nan" not in allow:
        raise TrainError(
            f"the loss is {loss} at step {step} on rows {name_rows(rows)} of the data; training stopped before the "
            "weights changed. Look at these rows, lower learning_rate, or set dtype: float32; to leave out up to "
            f"{MAX_SKIPPED} such steps in a row: allow: [skip_nan]."
        )


def check_gradient(norm: float, step: int, allow: Sequence[str], rows: Sequence[int] = ()) -> None:
    """Refuse a gradient that is no number, or that is zero in the first step.

    Raises:
        TrainError: the norm is not finite (override: `skip_nan`, as for the loss), or 0 in step 1 (override:
            `zero_gradient`).
    """
    if not math.isfinite(norm) and "skip_nan" not in allow:
        raise TrainError(
            f"the gradient norm is {norm} at step {step} on rows {name_rows(rows)} of the data; training stopped "
            "before the weights changed. Lower learning_rate, or set dtype: float32; to leave out up to "
            f"{MAX_SKIPPED} such steps in a row: allow: [skip_nan]."
        )
    if step == 1 and norm == 0.0 and "zero_gradient" not in allow:
        raise TrainError(
            "the gradient norm is 0 in step 1: nothing would be learned. Look at the rows with --show-tokens; "
            "to go on all the same: allow: [zero_gradient]."
        )


def check_skipped(in_a_row: int, step: int, rows: Sequence[int]) -> None:
    """Refuse to leave out one step after the other.

    Raises:
        TrainError: more than `MAX_SKIPPED` in a row.
    """
    if in_a_row > MAX_SKIPPED:
        raise TrainError(
            f"loss or gradient were NaN or infinite in {in_a_row} steps in a row (step {step}, rows "
            f"{name_rows(rows)}), more than the {MAX_SKIPPED} that skip_nan leaves out: the run is broken, not a row. "
            "Lower learning_rate, or set dtype: float32."
        )


def name_rows(rows: Sequence[int]) -> str:
    """Name up to 20 rows by their number in the data, counted from 1."""
    return ", ".join(str(row + 1) for row in sorted(rows)[:20]) + (" …" if len(rows) > 20 else "")


def check_weights(model: nn.Module, what: str) -> None:
    """Refuse a model that is broken already.

    Raises:
        TrainError: a weight is NaN or infinite. No override: every loss would be NaN.
    """
    broken = [name for name, weight in model.named_parameters() if not bool(torch.isfinite(weight).all())]
    if broken:
        raise TrainError(
            f"{what} has NaN or infinite numbers in {len(broken)} weights, {broken[0]} among them; training would give "
            "nothing but NaN. Take a model that is whole."
        )


def adapter_snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Copy the adapter matrices as they are before the first step."""
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if "lora_" in name}


def check_adapters_moved(model: nn.Module, before: Mapping[str, Tensor], allow: Sequence[str]) -> None:
    """Refuse a run in which an adapter's B matrix is still what it was at the start.

    Matrix A gets no gradient in step 1, as B is zero there, so only B is looked at.

    Raises:
        TrainError: names the matrices (override: `still_adapter`).
    """
    now = dict(model.named_parameters())
    still = [name for name, weight in before.items() if "lora_B" in name and weight.equal(_whole(now[name]))]
    if still and "still_adapter" not in allow:
        raise TrainError(
            f"{len(still)} of {sum('lora_B' in name for name in before)} adapter matrices did not move, {still[0]} "
            "among them: their layers get no gradient. Leave these layers out of lora.target_modules; to go on all "
            "the same: allow: [still_adapter]."
        )


def _whole(weight: Tensor) -> Tensor:
    """Return a weight of which processes may hold shares; each of them has to ask."""
    return weight.full_tensor().detach() if isinstance(weight, DTensor) else weight.detach()


class PreferenceWatch:
    """Stop a preference run that collapses, stands still, or has nothing left to learn.

    Args:
        max_chosen_drop: nats per token that the chosen log-prob may fall below the reference.
        watches_ln2: whether a loss of ln 2 means that nothing moves (sigmoid losses).
        allow: overrides by name: chosen_drop, stuck_loss, saturated.
        warmup_steps: steps of rising learning rate, during which a loss of ln 2 is no fault.
    """

    def __init__(
        self, max_chosen_drop: float, watches_ln2: bool, allow: Sequence[str], warmup_steps: int = 0
    ) -> None:
        self._max_drop = max_chosen_drop
        self._watches_ln2 = watches_ln2
        self._allow = frozenset(allow)
        self._warmup_steps = warmup_steps
        self._stuck = 0
        self._saturated = 0

    def state(self) -> list[int]:
        """Return the steps in a row counted so far, for a checkpoint."""
        return [self._stuck, self._saturated]

    def restore(self, state: Sequence[int]) -> None:
        """Go on from what `state` returned."""
        self._stuck, self._saturated = state

    def see(self, step: int, loss: float, accuracy: float, chosen_drop: float) -> None:
        """Look at one optimizer step.

        Args:
            step: number of the step, from 1.
            loss: the preference loss alone, without the NLL term.
            accuracy: share of pairs whose chosen reward is higher.
            chosen_drop: reference minus policy, nats per token of chosen.

        Raises:
            TrainError: says which guard, the value and the override.
        """
        if chosen_drop > self._max_drop and "chosen_drop" not in self._allow:
            raise TrainError(
                f"the chosen answers lost {chosen_drop:.2f} nats per token at step {step}, more than max_chosen_drop "
                f"{self._max_drop}: the policy is collapsing. Lower learning_rate, raise beta or nll_weight; to go on "
                "all the same: allow: [chosen_drop]."
            )
        at_ln2 = self._watches_ln2 and step > self._warmup_steps and abs(loss - LN2) < STUCK_WITHIN
        self._stuck = self._stuck + 1 if at_ln2 else 0
        if self._stuck >= STUCK_STEPS and "stuck_loss" not in self._allow:
            raise TrainError(
                f"the loss has been ln 2 for {self._stuck} steps (step {step}): the policy does not move away from the "
                "reference. Raise learning_rate or look at the pairs; to go on all the same: allow: [stuck_loss]."
            )
        self._saturated = self._saturated + 1 if accuracy == 1.0 and loss < SATURATED_LOSS else 0
        if self._saturated >= SATURATED_STEPS and "saturated" not in self._allow:
            raise TrainError(
                f"every pair has been right with a loss under {SATURATED_LOSS} for {self._saturated} steps (step "
                f"{step}): more steps only drive the policy from the reference. Take fewer epochs; to go on all the "
                "same: allow: [saturated]."
            )
