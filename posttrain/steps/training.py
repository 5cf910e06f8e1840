"""Points 2 and 6 of a round: reward model, SFT, DPO and the average of checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, TypeVar

from posttrain.config import DPOConfig, RewardModelConfig, SFTConfig, TrainConfig
from posttrain.core.files import read_rows
from posttrain.engines import use_threads
from posttrain.stages import StageCall
from posttrain.train.average import average_checkpoints
from posttrain.train.dpo import train_dpo
from posttrain.train.reward_model import train_reward_model
from posttrain.train.sft import train_sft

Row = dict[str, Any]
Config = TypeVar("Config", bound=TrainConfig)


def reward_model(call: StageCall, training: RewardModelConfig, seed: int) -> dict[str, Any]:
    """Train a reward model on the preference rows of all rounds."""
    use_threads(call.execution)
    rows = _rows(call.inputs["preferences"], "preferences.jsonl")
    config = _dated(call, training)
    return train_reward_model(call.inputs["model"], rows, call.out, config, seed, call.execution, call.progress)


def sft(call: StageCall, training: SFTConfig, seed: int) -> dict[str, Any]:
    """Fine-tune on the selected completions of all rounds given."""
    use_threads(call.execution)
    rows = _rows(call.inputs["selected"], "sft.jsonl")
    config = _dated(call, training)
    return train_sft(call.inputs["model"], rows, call.out, config, seed, call.execution, call.progress)


def dpo(call: StageCall, training: DPOConfig, seed: int) -> dict[str, Any]:
    """Optimise preferences on the selected pairs, the starting model being the reference."""
    use_threads(call.execution)
    rows = _rows(call.inputs["selected"], "pairs.jsonl")
    config = _dated(call, training)
    return train_dpo(call.inputs["model"], rows, call.out, config, seed, call.execution, call.progress)


def average(call: StageCall, weights: list[float]) -> dict[str, Any]:
    """Average checkpoints, each by its share."""
    models: list[Path] = call.inputs["models"]
    shutil.rmtree(call.out)  # an average is made whole or not at all: what a killed one left is of no use
    return average_checkpoints(models, call.out, weights)


def _dated(call: StageCall, training: Config) -> Config:
    """Return the section with the run's template date where it names none, so that training reads what sampling saw."""
    if training.template_date is not None or call.template_date is None:
        return training
    return training.model_copy(update={"template_date": call.template_date})


def _rows(folders: list[Path], name: str) -> list[Row]:
    return [row for folder in folders for row in read_rows(folder / name)]
