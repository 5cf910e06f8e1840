"""Judges, win rates, drift and the gate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from posttrain.config.base import NaturalInt, Nucleus, PositiveFloat, PositiveInt, Probability, Section, how
from posttrain.config.models import EndpointModel, FolderModel, HubModel
from posttrain.config.prompts import PromptSource
from posttrain.config.verifier import VerifierSection
from reward.judges.asking import NUM_RETRIES
from reward.judges.scale import HIGHEST, LOWEST


class VerifierJudge(VerifierSection):
    """A verifier's score decides; equal scores tie."""


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
    num_retries: NaturalInt = NUM_RETRIES
    """How often an endpoint is asked again where its reply cannot be read; weights here, which decode greedily, would
    say the same, and are asked once."""


class RubricJudge(Section):
    """A language model rates one answer at a time on a scale; the higher rating wins, equal ratings tie."""

    kind: Literal["rubric"] = "rubric"
    model: Annotated[FolderModel | HubModel | EndpointModel, Field(discriminator="kind")]
    """The judge."""
    template: str | None = how(None)
    """Text file of the judge prompt; the built-in one when absent. Its text is part of the address."""
    lowest: int = LOWEST
    """Lowest rating."""
    highest: int = HIGHEST
    """Highest rating."""
    max_completion_tokens: PositiveInt = 512
    """Longest reply, in tokens."""
    num_retries: NaturalInt = NUM_RETRIES
    """How often an endpoint is asked again where its reply cannot be read; weights here are asked once."""

    @model_validator(mode="after")
    def _a_scale(self) -> RubricJudge:
        if self.lowest >= self.highest:
            raise ValueError(f"lowest {self.lowest} is not below highest {self.highest}: nothing could be rated")
        return self


class LabelsJudge(Section):
    """People's labels of pairs of answers: rows of `prompt_id`, `a`, `b` (models of the run) and `preference`."""

    kind: Literal["labels"] = "labels"
    path: str = Field(json_schema_extra={"how": True})
    """JSON Lines or Parquet. Its identity is its content; pairs without labels stay out of the matrix."""


Judge = Annotated[VerifierJudge | RewardModelJudge | LLMJudge | RubricJudge, Field(discriminator="kind")]
FurtherJudge = Annotated[
    VerifierJudge | RewardModelJudge | LLMJudge | RubricJudge | LabelsJudge, Field(discriminator="kind")
]


class DriftConfig(Section):
    """How far a round's policy may move from the base before an alarm; null switches a measure off."""

    max_kl_from_base: PositiveFloat | None = 0.5
    """Nats per token of the policy's own answers, log-prob under it less that under the base; null loads no weights.
    Ours: LOG.md."""
    max_mean_length_ratio: PositiveFloat | None = 2.0
    """Mean answer length over the base's; longer answers alone win judges over (2310.03716). Ours."""
    min_mean_length_ratio: PositiveFloat | None = 0.5
    """The same, for answers that shrink. Ours."""
    min_distinct_share: Probability | None = 0.4
    """Distinct word bigrams (1510.03055) over the base's share; RLHF lowers diversity (2310.06452). Ours: LOG.md."""
    max_refusal_share: Probability | None = 0.1
    """Share of answers that refuse, by the phrase lists of synth/filters/refusals.txt. Ours."""
    max_language_shift: Probability | None = 0.1
    """Total variation distance between the languages of the policy's and the base's answers; scripts alone where
    `languages` names none. Ours."""
    languages: list[str] = []
    """ISO 639-1 codes of the languages to tell apart, two or more: those of the prompts, and those that answers might
    slip into."""
    max_truncated_share: Probability | None = 0.1
    """Share of answers cut at max_completion_tokens. Ours."""
    on_alarm: Literal["warn", "stop"] = how("warn")
    """warn: alarms are shown; stop: the run ends with exit code 1 after the round that raised one."""

    @model_validator(mode="after")
    def _a_range(self) -> DriftConfig:
        low, high = self.min_mean_length_ratio, self.max_mean_length_ratio
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_mean_length_ratio {low} is above max_mean_length_ratio {high}: no length would do")
        return self

    @field_validator("languages")
    @classmethod
    def _two_or_more(cls, languages: list[str]) -> list[str]:
        if len(set(languages)) == 1 or len(set(languages)) < len(languages):
            raise ValueError(f"{languages}: expected two languages or more, each once; one alone is found everywhere")
        return languages


class EvaluateConfig(Section):
    """Point 7: win rates on prompts that no stage has trained on."""

    prompts: PromptSource
    """Held-out prompts; every generated prompt that overlaps with them is dropped."""
    judge: Judge
    """Who decides, and whose verdict the gate uses."""
    judges: dict[str, FurtherJudge] = {}
    """Further judges by name, beside the main one: each gives every pair of models a win rate, and all a rating."""
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
    """Resamples over prompts for the 95 % intervals of ratings and of the judges' agreement."""
    matrix: bool = True
    """Compare every pair of models (SFT checkpoints too) by every judge when the rounds are done."""
    matrix_prompts: PositiveInt | None = None
    """Prompts per pair that a pairwise language model judges for the matrix, first by hash of id; all when absent.
    Pairs that the rounds have judged already are on all prompts whatever this says."""
    gold_prompts: NaturalInt = 400
    """Prompts of each round whose samples a verifier that judges also scores: the best-of-K curve of the report, where
    a reward model's pick stands beside the best there is; 0 scores none."""
    gold_max_error_rate: Probability = 0.5
    """Share of those samples that the verifier may fail on before it stops, with the reason in the metrics: prompts
    that a model wrote may have nothing to verify. The run goes on. Ours."""
    drift: DriftConfig | None = DriftConfig()
    """Alarms on what a win rate does not show; absent measures nothing."""

    @model_validator(mode="after")
    def _names_differ(self) -> EvaluateConfig:
        bad = [name for name in self.judges if not name or not name.replace("_", "").replace("-", "").isalnum()]
        if bad:
            raise ValueError(f"judges: names are letters, digits, - and _, not {', '.join(map(repr, bad))}")
        if self.judge.kind in self.judges:
            raise ValueError(f"judges: '{self.judge.kind}' is the name of the main judge in the report: choose another")
        if self.judges and not self.matrix:
            raise ValueError(f"judges: {', '.join(self.judges)} would judge nothing: set matrix: true or remove them")
        return self


class GateConfig(Section):
    """A round is promoted only if it is not worse than the best so far."""

    rule: Literal["not_worse", "lower_bound"] = "lower_bound"
    """not_worse: the win rate itself reaches the threshold; lower_bound: the interval's lower end exceeds it."""
    min_win_rate: Probability = 0.5
    """Threshold on the win rate over the best policy so far."""
    allow_judge_trained_against: bool = False
    """Let the reward model that the policy was trained against decide too; it is gamed first (2210.10760)."""
