"""Practice models: pretrained inside the run, as a stage like any other."""

from __future__ import annotations

from typing import Any

from posttrain.config import PracticeModel
from posttrain.engines import use_threads
from posttrain.practice.pretrain import PracticeModelConfig, pretrain
from posttrain.stages import StageCall


def practice_model(call: StageCall, model: PracticeModel) -> dict[str, Any]:
    """Pretrain a tiny model on the practice world."""
    use_threads(call.execution)
    config = PracticeModelConfig(**model.model_dump(exclude={"kind"}))
    return pretrain(call.out, config, progress=lambda step, steps, _: call.progress(step, steps))
