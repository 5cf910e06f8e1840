"""Who labels, and how clear a preference must be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from posttrain.config.base import NaturalInt, Nucleus, PositiveFloat, PositiveInt, Section, how
from posttrain.config.models import FolderModel, HubModel, TeacherModel
from posttrain.config.prompts import PromptSource
from posttrain.config.verifier import VerifierSection
from reward.judges.asking import NUM_RETRIES


class VerifierAnnotator(VerifierSection):
    """A verifier labels: its score decides the order."""

    edit_function: str | None = how(None)
    """`correct(prompt) -> str | None`, named as above: writes the edited answer where no sample is good."""
    edit_below: float = 1.0
    """Prompts whose best sample scores below this get an edited answer, where one can be written."""


class JudgeAnnotator(Section):
    """A language model compares answers pairwise, in both orders."""

    kind: Literal["judge"] = "judge"
    model: TeacherModel
    """The judge."""
    template: str | None = how(None)
    """Text file of the judge prompt; the built-in one when absent. Its text is part of the address."""
    max_completion_tokens: PositiveInt = 512
    """Longest verdict, in tokens."""
    num_retries: NaturalInt = NUM_RETRIES
    """How often an endpoint is asked again where its reply cannot be read; weights here, which decode greedily, would
    say the same, and are asked once."""


class RewardModelAnnotator(Section):
    """A given reward model labels by its score."""

    kind: Literal["reward_model"] = "reward_model"
    model: Annotated[FolderModel | HubModel, Field(discriminator="kind")]
    """The reward model."""


class FileAnnotator(Section):
    """Rows that a person ranked: `prompt`, `completions` best first, or `prompt`, `chosen`, `rejected`, `strength`."""

    kind: Literal["file"] = "file"
    path: str = Field(json_schema_extra={"how": True})
    """JSON Lines or Parquet; `{round}` in the name is replaced by the round's number."""


Annotator = Annotated[
    VerifierAnnotator | JudgeAnnotator | RewardModelAnnotator | FileAnnotator, Field(discriminator="kind")
]


class AnnotateConfig(Section):
    """Point 1 of a round: sample from the newest policies, and label."""

    annotator: Annotator
    """Who labels."""
    prompts: PromptSource | None = None
    """Prompts to label, split over the rounds; a file annotator brings its own and takes none."""
    num_policies: PositiveInt = 1
    """Newest promoted policies that answer each prompt; L3 shows answers of two different models."""
    num_completions: PositiveInt = 4
    """Answers per prompt and policy."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature."""
    top_p: Nucleus = 1.0
    """Nucleus; 1 is off."""
    top_k: NaturalInt = 0
    """Most likely tokens kept; 0 is off."""
    max_completion_tokens: PositiveInt = 1024
    """Longest answer, in tokens."""
    num_pairs: PositiveInt = 1
    """Most pairs labelled per prompt, each of other answers where there are enough."""
    strengths: tuple[float, float, float, float] = (0.6, 0.4, 0.2, 0.05)
    """Score gaps from which a preference is significantly, clearly, slightly, marginally better; below are ties."""
    min_strength: Literal["significantly_better", "better", "slightly_better", "marginally_better"] = "better"
    """Weakest strength kept; L3 keeps the two clearest for reward model and DPO."""

    @model_validator(mode="after")
    def _prompts_or_file(self) -> AnnotateConfig:
        is_file = isinstance(self.annotator, FileAnnotator)
        if is_file and self.prompts is not None:
            raise ValueError("a file annotator brings its own prompts: remove annotate.prompts")
        if not is_file and self.prompts is None:
            raise ValueError("annotate.prompts is missing: prompts to sample from and label")
        return self
