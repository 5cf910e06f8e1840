"""One door to all trainers, for the command line and the stages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from posttrain.config import DistillConfig, DPOConfig, Execution, RewardModelConfig, SFTConfig, TrainConfig
from posttrain.core.model_files import check_model_dir
from posttrain.train.errors import TrainError
from posttrain.train.kinds import Kind, Progress, check_training_rows
from posttrain.train.limits import check_limits

CONFIGS: dict[Kind, type[TrainConfig]] = {
    "sft": SFTConfig,
    "dpo": DPOConfig,
    "reward_model": RewardModelConfig,
    "distill": DistillConfig,
}
"""Training section of each kind."""


def train(
    kind: Kind,
    model_dir: str | Path,
    rows: Iterable[Mapping[str, Any]],
    out_dir: str | Path,
    config: TrainConfig,
    seed: int,
    execution: Execution,
    teacher_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a model of a kind; see `train_sft`, `train_dpo`, `train_reward_model`, `train_distill`.

    Rows and folders are checked before the heavy libraries are loaded, so a mistyped path answers at once.

    Args:
        config: the section that belongs to the kind.
        teacher_dir: for `distill` with a live teacher.

    Raises:
        DataError: rows that cannot be used, all of them listed.
        ModelError: a folder that is no model.
        TrainError: a section of another kind, a teacher missing, or a guard that refused.
    """
    if not isinstance(config, CONFIGS[kind]):
        raise TrainError(f"training {kind} needs a {CONFIGS[kind].__name__}, got a {type(config).__name__}.")
    check_limits(config, execution)
    rows = list(rows)
    check_training_rows(kind, rows)
    check_model_dir(model_dir)
    if kind == "sft":
        from posttrain.train.sft import train_sft

        return train_sft(model_dir, rows, out_dir, cast(SFTConfig, config), seed, execution, progress)
    if kind == "dpo":
        from posttrain.train.dpo import train_dpo

        return train_dpo(model_dir, rows, out_dir, cast(DPOConfig, config), seed, execution, progress)
    if kind == "reward_model":
        from posttrain.train.reward_model import train_reward_model

        return train_reward_model(model_dir, rows, out_dir, cast(RewardModelConfig, config), seed, execution, progress)
    from posttrain.train.distill import train_distill

    section = cast(DistillConfig, config)
    return train_distill(model_dir, teacher_dir, rows, out_dir, section, seed, execution, progress)
