"""Students, and how a run is carried out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from posttrain.config.base import PositiveInt, Section, how
from posttrain.config.models import WeightsModel
from posttrain.config.training import DPOConfig, SFTConfig


class StudentConfig(Section):
    """A student distilled from the teacher after the rounds."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
    """Name in the report and for export."""
    base: WeightsModel
    """Its own base."""
    teacher: Literal["policy", "teacher"] = "policy"
    """Who it learns from: the final policy, or the recipe's teacher."""
    num_completions: PositiveInt = 4
    """Teacher samples per prompt; the reward model picks the best."""
    sft: SFTConfig
    """On the selected teacher completions."""
    dpo: DPOConfig | None = None
    """On pairs of the student's own samples, scored by the reward model."""


class Execution(Section):
    """How a run is carried out; none of it enters an address."""

    device: str = how("auto")
    """`auto` (an accelerator if there is one), `cpu`, `cuda`, `cuda:1`, …"""
    workers: PositiveInt = how(1)
    """Processes for sampling and scoring."""
    processes: PositiveInt = how(1)
    """Training processes, launched by accelerate/torchrun."""
    max_batch_tokens: PositiveInt = how(16384)
    """Tokens, padding included, of one forward pass in sampling and scoring."""
    threads: PositiveInt | None = how(None)
    """Threads of a CPU run; torch's choice when absent."""
