"""The given reward model, samples per prompt, and what is selected among them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from posttrain.config.base import NaturalInt, Nucleus, PositiveFloat, PositiveInt, Section
from posttrain.config.models import FolderModel, HubModel


class GivenRewardModel(Section):
    """A reward model that is there already, the same in every round."""

    kind: Literal["given"] = "given"
    model: Annotated[FolderModel | HubModel, Field(discriminator="kind")]
    """Folder or hub id of a sequence classifier with one label."""


class SamplingConfig(Section):
    """Point 4: K samples per prompt."""

    engines: tuple[Literal["teacher", "policy"], ...] = ("policy",)
    """Who answers: the teacher, the newest promoted policy, or both (K each)."""
    num_completions: PositiveInt = 10
    """K, samples per prompt and engine; L3 uses 10 to 30."""
    temperature: PositiveFloat = 1.0
    """Not published in L3; RF uses 1.0 and 0.7."""
    top_p: Nucleus = 1.0
    """Nucleus; 1 is off."""
    top_k: NaturalInt = 0
    """Most likely tokens kept; 0 is off."""
    max_completion_tokens: PositiveInt = 1024
    """Longest completion, in tokens."""
    system_prompt: str | None = None
    """Steers style while sampling (L3 4.2.2), before a prompt's own system message; not part of the trained prompt."""


class SelectConfig(Section):
    """Point 5: best of K for SFT, chosen and rejected for DPO."""

    rule: str = "best_of_k"
    """Name of a rule in reward/select.py."""
    margin: Annotated[float, Field(ge=0.0)] = 0.0
    """Smallest score gap of a pair, in the reward model's units."""
    num_pairs: PositiveInt = 1
    """Most pairs per prompt."""
    length_penalty: Annotated[float, Field(ge=0.0)] = 0.0
    """Subtracted from the score per character of the answer; RF used 0.001 in one variant."""
    min_score: float | None = None
    """A best-of-K answer below this is not trained on."""
