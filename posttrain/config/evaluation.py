"""Judges, win rates and the gate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from posttrain.config.base import NaturalInt, Nucleus, PositiveInt, Probability, Section, how
from posttrain.config.models import EndpointModel, FolderModel, HubModel
from posttrain.config.prompts import PromptSource


class VerifierJudge(Section):
    """A verifier's score decides; equal scores tie."""

    kind: Literal["verifier"] = "verifier"
    function: str = Field(json_schema_extra={"how": True})
    """As in annotate. Its identity is its name and the content of its file, not where that lies."""


class RewardModelJudge(Section):
    """A reward model's score decides: a given one, or (said loudly) the one trained in the last round."""

    kind: Literal["reward_model"] = "reward_model"
    model: Annotated[FolderModel | HubModel, Field(discriminator="kind")] | None = None
    """The judge; when absent the run's own reward model, which the policy was trained against."""


class LLMJudge(Section):
    """A language model compares both answers, in both orders."""

    kind: Literal["llm"] = "llm"
    model: Annotated[FolderModel | HubModel | EndpointModel, Field(discriminator="kind")]
    """The judge."""
    template: str | None = how(None)
    """Text file of the judge prompt; the built-in one when absent. Its text is part of the address."""
    max_completion_tokens: PositiveInt = 512
    """Longest verdict, in tokens."""


Judge = Annotated[VerifierJudge | RewardModelJudge | LLMJudge, Field(discriminator="kind")]


class EvaluateConfig(Section):
    """Point 7: win rates on prompts that no stage has trained on."""

    prompts: PromptSource
    """Held-out prompts; every generated prompt that overlaps with them is dropped."""
    judge: Judge
    """Who decides, and whose verdict the gate uses."""
    num_completions: PositiveInt = 1
    """Answers per prompt and model, averaged within the prompt."""
    temperature: Annotated[float, Field(ge=0.0)] = 1.0
    """Sampling temperature; 0 is greedy."""
    top_p: Nucleus = 1.0
    """Nucleus; 1 is off."""
    top_k: NaturalInt = 0
    """Most likely tokens kept; 0 is off."""
    max_completion_tokens: PositiveInt = 1024
    """Longest answer, in tokens."""
    num_bootstrap: PositiveInt = 2000
    """Resamples over prompts for the 95 % intervals of ratings."""


class GateConfig(Section):
    """A round is promoted only if it is not worse than the best so far."""

    rule: Literal["not_worse", "lower_bound"] = "not_worse"
    """not_worse: the win rate itself reaches the threshold; lower_bound: the interval's lower end does."""
    min_win_rate: Probability = 0.5
    """Threshold on the win rate over the best policy so far."""
