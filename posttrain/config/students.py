"""Students, and how a run is carried out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

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

    kind: Literal["local", "ray"] = how("local")
    """Where sampling and scoring run: in processes of this machine, or on the Ray cluster at `address`."""
    address: str | None = how(None)
    """Of the Ray cluster: `auto` (this machine's), `host:port` of its head, or `ray://host:port`."""
    device: str = how("auto")
    """`auto` (an accelerator if there is one), `cpu`, `cuda`, `cuda:1`, …"""
    workers: PositiveInt = how(1)
    """Processes for sampling and scoring; on a Ray cluster the workers, each with a model of its own."""
    processes: PositiveInt = how(1)
    """Training processes on this machine, one for each device, started by torchrun."""
    sharding: Literal["none", "fsdp2"] = how("none")
    """none: each process holds all weights; fsdp2: each holds its share of weights, gradients and Adam's sums."""
    max_batch_tokens: PositiveInt = how(16384)
    """Tokens, padding included, that sampling holds at a time, and of one forward pass in scoring."""
    threads: PositiveInt | None = how(None)
    """Threads of a CPU run; torch's choice when absent."""

    @model_validator(mode="after")
    def _address_fits(self) -> Execution:
        if self.kind == "ray" and not self.address:
            raise ValueError("kind ray needs an address: auto for the cluster of this machine, or host:port")
        if self.kind == "local" and self.address is not None:
            raise ValueError(f"address {self.address!r} belongs to kind ray; set kind: ray or leave it out")
        return self

    @model_validator(mode="after")
    def _processes_fit(self) -> Execution:
        if self.sharding != "none" and self.processes == 1:
            raise ValueError(f"sharding {self.sharding} divides weights among processes: set processes to 2 or more")
        if self.processes > 1 and ":" in self.device:
            raise ValueError(f"device {self.device!r} names one device for {self.processes} processes; give cuda")
        return self

    @property
    def ray_address(self) -> str | None:
        """The cluster's address; None on this machine."""
        return self.address if self.kind == "ray" else None
