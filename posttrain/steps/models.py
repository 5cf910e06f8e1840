"""Practice models: pretrained inside the run, as a stage like any other."""

from __future__ import annotations

from typing import Any

from posttrain.config import PracticeModel
from posttrain.engines import use_threads
from posttrain.practice.pretrain import pretrain
from posttrain.stages import StageCall


def practice_model(call: StageCall, model: PracticeModel) -> dict[str, Any]:
    """Pretrain a tiny model on the practice world."""
    use_threads(call.execution)
    return pretrain(call.out, model, progress=lambda step, steps, _: call.progress(step, steps))
