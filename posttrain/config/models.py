"""Where models come from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from posttrain.config.base import PositiveFloat, PositiveInt, Probability, Section, how


class FolderModel(Section):
    """A Hugging Face folder on this machine: config, safetensors, tokenizer with a chat template."""

    kind: Literal["folder"] = "folder"
    path: str = Field(json_schema_extra={"how": True})
    """Folder. Its identity is the content of its files, not this path."""


class HubModel(Section):
    """A model of the Hugging Face hub, pinned to a commit."""

    kind: Literal["hub"] = "hub"
    repo: str
    """Repository, owner/name."""
    revision: str
    """Commit, 40 hexadecimal digits; a branch or tag moves and is refused."""

    @field_validator("revision")
    @classmethod
    def _pinned(cls, revision: str) -> str:
        if len(revision) != 40 or any(c not in "0123456789abcdef" for c in revision):
            raise ValueError(
                f"'{revision}' is not a 40-hex commit; a branch moves: copy the commit from the repository's history"
            )
        return revision


class PracticeModel(Section):
    """A tiny model pretrained on the practice world, as a stage like any other."""

    kind: Literal["practice"] = "practice"
    hidden_size: PositiveInt = 96
    """Width of the model, in units."""
    intermediate_size: PositiveInt = 256
    """Width of the feed-forward layers, in units."""
    num_layers: PositiveInt = 3
    """Transformer blocks."""
    num_heads: PositiveInt = 6
    """Attention heads; must divide hidden_size."""
    steps: PositiveInt = 1600
    """Optimizer steps of pretraining."""
    batch_tokens: PositiveInt = 1024
    """Tokens per optimizer step."""
    learning_rate: PositiveFloat = 8e-3
    """Peak AdamW learning rate of embeddings and norms; short warm-up, then linear decay."""
    matrix_learning_rate: PositiveFloat = 0.02
    """Peak Muon learning rate of the matrices."""
    textbook_share: Probability = 0.75
    """Share of the steps, at the start, with short answers and no mistakes to imitate: skills first, habits after."""
    wrong_share: Probability = 0.4
    """Share of answers after that which are wrong: what gives the base its mixed manners."""
    wanted_share: Probability = 0.2
    """Share of answers in the wanted manner; the others are spread evenly."""
    mark_share: Probability = 0.7
    """Share of documents with a quality mark after the answer, as web text carries votes."""
    self_instruct_share: Probability = 0.05
    """Share of documents in which tasks are continued with a new one."""
    seed: int = 0
    """Seed of weights and corpus."""

    @model_validator(mode="after")
    def _heads_divide(self) -> PracticeModel:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} does not divide hidden_size {self.hidden_size}")
        return self


class EndpointModel(Section):
    """A model behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp, a hosted one)."""

    kind: Literal["endpoint"] = "endpoint"
    base_url: str = Field(json_schema_extra={"how": True})
    """Address of the server, ending in /v1."""
    model: str
    """Name under which the server offers the model; with `revision`, the identity of the model."""
    revision: str
    """Your own name for the exact weights and quantisation served (a commit, a build): the server cannot prove it."""
    api_key_env: str = how("OPENAI_API_KEY")
    """Environment variable that holds the key; the key itself never enters a recipe."""
    dialect: Literal["extended", "openai", "transformers"] | None = how(None)
    """Parameters that the server understands: `extended` (vLLM, SGLang), `openai`, `transformers`; null guesses."""
    concurrency: PositiveInt = how(32)
    """Requests under way at once."""
    timeout_seconds: PositiveFloat = how(600.0)
    """Longest wait for one reply, in seconds."""
    local_copy: str | None = how(None)
    """Folder with a copy of the model: its log-probs are compared with the server's at start, where it gives any."""
    max_doubtful_share: Annotated[float, Field(ge=0, le=1)] = how(0.5)
    """Largest share of answers that may begin with their prompt or have more words than the server counted tokens."""


class PolicyModel(Section):
    """The newest promoted policy: the model teaches itself round by round (L3 4.2)."""

    kind: Literal["policy"] = "policy"


WeightsModel = Annotated[FolderModel | HubModel | PracticeModel, Field(discriminator="kind")]
TeacherModel = Annotated[
    FolderModel | HubModel | PracticeModel | EndpointModel | PolicyModel, Field(discriminator="kind")
]
