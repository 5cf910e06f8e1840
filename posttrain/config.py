"""Every number of a recipe has its one home here: name, unit, default and source.

All sections are frozen pydantic models that refuse unknown keys. The line under a field says what it means, its
unit and where its default comes from; docs/recipes.md is generated from these lines. Fields marked `how` say how a
stage runs (device, workers, rows per device) and never enter an address; everything else is identity.

Source keys: L3 = The Llama 3 Herd of Models (2407.21783), L2 = Llama 2 (2307.09288), T3 = Tülu 3 (2411.15124),
RF = RLHF Workflow (2405.07863), SI = Self-Instruct (2212.10560), MP = Magpie (2406.08464).
"""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Nucleus = Annotated[float, Field(gt=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
PositiveInt = Annotated[int, Field(gt=0)]
NaturalInt = Annotated[int, Field(ge=0)]
Dtype = Literal["float32", "bfloat16"]
Guard = Literal["zero_gradient", "still_adapter", "chosen_drop", "stuck_loss", "saturated"]


def how(default: Any, **constraints: Any) -> Any:
    """Return a field that says how a stage runs and is left out of its address."""
    return Field(default, json_schema_extra={"how": True}, **constraints)


class Section(BaseModel):
    """A part of a recipe: frozen, strict about its keys, documented field by field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, data: Any) -> Any:
        # pydantic reads true as 1, so `epochs: yes` would train for one epoch; as a text it is refused with its place.
        if not isinstance(data, dict):
            return data
        types = {name: _types_in(field.annotation) for name, field in cls.model_fields.items()}
        return {
            name: str(value).lower() if isinstance(value, bool) and not {bool, str} & types.get(name, {bool}) else value
            for name, value in data.items()
        }

    def identity(self) -> dict[str, Any]:
        """Return the fields that say what is asked, as plain JSON values; those that say how are left out."""
        return plain(self)


def _types_in(annotation: Any) -> set[Any]:
    """Return an annotation and all types inside it."""
    return {annotation}.union(*(_types_in(part) for part in get_args(annotation) if isinstance(part, type | UnionType)))


def plain(value: Any) -> Any:
    """Return a config value as plain JSON values, without the fields that only say how."""
    if isinstance(value, Section):
        fields = type(value).model_fields
        return {
            name: plain(getattr(value, name))
            for name, field in fields.items()
            if not (isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("how"))
        }
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


# --------------------------------------------------------------------------------------------------- models


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


class PolicyModel(Section):
    """The newest promoted policy: the model teaches itself round by round (L3 4.2)."""

    kind: Literal["policy"] = "policy"


WeightsModel = Annotated[FolderModel | HubModel | PracticeModel, Field(discriminator="kind")]
TeacherModel = Annotated[
    FolderModel | HubModel | PracticeModel | EndpointModel | PolicyModel, Field(discriminator="kind")
]


# --------------------------------------------------------------------------------------------------- prompts


class PromptFile(Section):
    """Prompts from a JSON Lines or Parquet file, a row each (docs/formats.md)."""

    kind: Literal["file"] = "file"
    path: str = Field(json_schema_extra={"how": True})
    """The file. Its identity is its content, not this path."""
    num_prompts: PositiveInt | None = None
    """Rows taken, a seeded draw without repeats; all when absent."""


class PracticePrompts(Section):
    """Prompts of the practice world's task families, disjoint from the evaluation prompts."""

    kind: Literal["practice"] = "practice"
    num_prompts: PositiveInt
    """Prompts made."""


PromptSource = Annotated[PromptFile | PracticePrompts, Field(discriminator="kind")]


class SelfInstruct(Section):
    """The teacher continues a list of demonstrations with new tasks (SI)."""

    kind: Literal["self_instruct"] = "self_instruct"
    num_prompts: PositiveInt
    """Prompts wanted per round, before cleaning."""
    num_demonstrations: PositiveInt = 8
    """Demonstrations per request; SI uses 8."""
    num_machine: NaturalInt = 2
    """Of these, how many come from what the teacher wrote itself; SI shows 2."""
    template: str = how("self_instruct")
    """`self_instruct`, `self_instruct_one`, `practice` (practice models), or a .txt file with {demonstrations}."""
    temperature: PositiveFloat = 0.7
    """SI: 0.7."""
    top_p: Nucleus = 0.5
    """SI: 0.5."""
    max_completion_tokens: PositiveInt = 1024
    """SI: 1024 tokens per reply."""
    max_rouge_l: Probability | None = 0.7
    """A task with a higher ROUGE-L F to a known one is dropped (SI: 0.7); null compares nothing."""


class Magpie(Section):
    """The teacher completes the opening of a user turn (MP)."""

    kind: Literal["magpie"] = "magpie"
    num_prompts: PositiveInt
    """User turns sampled per round, before cleaning."""
    temperature: PositiveFloat = 1.0
    """MP: a mix of 1.0 to 1.25."""
    top_p: Nucleus = 1.0
    """MP: 0.99 to 1.0."""
    max_completion_tokens: PositiveInt = 512
    """Longest user turn, in tokens; a longer one is dropped."""
    num_turns: PositiveInt = 1
    """User turns of a dialogue; the teacher answers between them."""


Generator = Annotated[SelfInstruct | Magpie, Field(discriminator="kind")]


class Cleaning(Section):
    """What a new prompt must pass; each drop has a reason and is counted."""

    min_tokens: PositiveInt = 3
    """Shortest prompt, in tokens of the base's template."""
    max_tokens: PositiveInt = 2048
    """Longest prompt, in tokens."""
    max_repeated_share: Probability = 0.5
    """Share of a prompt's word 4-grams that may be repeats of earlier ones."""
    near_duplicate_threshold: Probability | None = 0.7
    """Character-5-gram Jaccard from which two prompts are the same; null keeps near duplicates, since one-word
    siblings of a template are different tasks."""
    decontaminate_threshold: Probability = 0.5
    """Share of an evaluation prompt's informative 8-grams (T3: 8-grams, 50 %) at which a prompt is dropped."""
    script_match: bool = False
    """Drop prompts that mix writing systems."""
    check: str | None = how(None)
    """`check(prompt) -> reason or None` as FILE.py:FUNCTION or package.module:function: drops what you cannot use."""
    max_drop_rate: Probability = 0.95
    """Past this share of drops the stage fails and names the top reasons."""


class PromptsConfig(Section):
    """Point 3 of a round: the teacher writes prompts, and they are cleaned."""

    seed_prompts: PromptSource
    """Prompts that a person wrote: demonstrations for self-instruct, and the first known prompts."""
    generators: tuple[Generator, ...] = ()
    """How the teacher writes; none means prompts come from `files` alone."""
    files: tuple[PromptSource, ...] = ()
    """Prompts added to each round as they are."""
    num_prompts: PositiveInt
    """Most prompts a round goes on with, after cleaning."""
    min_prompts: PositiveInt = 1
    """Fewer cleaned prompts than this fail the stage."""
    cleaning: Cleaning = Cleaning()


# --------------------------------------------------------------------------------------------------- annotate and score


class VerifierAnnotator(Section):
    """A verifier labels: its score decides the order."""

    kind: Literal["verifier"] = "verifier"
    function: str = Field(json_schema_extra={"how": True})
    """FILE.py:FUNCTION or package.module:function, with interface.md's signature `verify(prompt, completion, row)`."""
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
    """Steers style while sampling (L3 4.2.2); not part of the trained prompt."""


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


# --------------------------------------------------------------------------------------------------- training


class LoraConfig(Section):
    """Low-rank adapters (peft) instead of full fine-tuning; merged in float32 when the stage ends."""

    rank: PositiveInt = 16
    """Rank of the update matrices."""
    alpha: PositiveFloat = 32.0
    """Scale; the update is multiplied by alpha / rank."""
    dropout: Probability = 0.0
    """Dropout on the adapter's input."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Layers that get an adapter."""


class TrainConfig(Section):
    """What all trainers share."""

    learning_rate: PositiveFloat
    """Peak AdamW learning rate."""
    epochs: PositiveFloat | None = None
    """Passes over the rows; give this or max_steps."""
    max_steps: PositiveInt | None = None
    """Optimizer steps; give this or epochs."""
    global_batch_size: PositiveInt = 128
    """Rows (pairs for DPO and reward models) per optimizer step, over all devices."""
    device_batch_size: PositiveInt | None = how(None)
    """Rows per forward pass on one device; must divide global_batch_size. As many as the global batch when absent."""
    warmup_ratio: Probability = 0.03
    """Share of steps with rising learning rate."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Course of the learning rate after warm-up."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """AdamW weight decay."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradient norm above which gradients are scaled down."""
    max_tokens: PositiveInt = 4096
    """Longest row, prompt and completion, in tokens."""
    max_truncated_rate: Probability = 0.05
    """Share of rows that may be cut to max_tokens; more is an error. Raise it to allow more."""
    max_drop_rate: Probability = 0.05
    """Share of rows with nothing to learn from (empty answers, pairs of equal answers) that may be left out."""
    allow: tuple[Guard, ...] = ()
    """Guards of training that are switched off, by name; each error names its own."""
    dtype: Dtype = "float32"
    """Compute type: float32, or bfloat16 autocast over float32 weights."""
    gradient_checkpointing: bool = how(False)
    """Recompute activations in the backward pass: less memory, about a third more time."""
    lora: LoraConfig | None = None
    """Adapters; full fine-tuning when absent."""
    template_date: str | None = None
    """Date that chat templates print; the recipe's when absent."""
    seed: int | None = None
    """Seed of data order, heads and adapters; the recipe's seed when absent."""
    logging_steps: PositiveInt = how(10)
    """Steps between rows of metrics.jsonl."""
    checkpoint_steps: PositiveInt | None = how(None)
    """Steps between resumable checkpoints; none when absent."""

    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        if (self.epochs is None) == (self.max_steps is None):
            raise ValueError("give exactly one of epochs and max_steps")
        if self.device_batch_size and self.global_batch_size % self.device_batch_size:
            raise ValueError(
                f"device_batch_size {self.device_batch_size} does not divide global_batch_size {self.global_batch_size}"
            )
        return self


class SFTConfig(TrainConfig):
    """Supervised fine-tuning: cross-entropy on assistant tokens, weighted per token over the global batch."""

    learning_rate: PositiveFloat = 1e-5
    """L3 (405B): 1e-5; T3: 5e-6 (8B), 2e-6 (70B)."""


class DPOConfig(TrainConfig):
    """Direct preference optimisation (2305.18290) with the two changes of L3 4.1.4."""

    learning_rate: PositiveFloat = 5e-7
    """T3, RF (8B): 5e-7; L3 (405B): 1e-5."""
    loss: Literal["sigmoid", "ipo", "hinge", "sigmoid_norm"] = "sigmoid"
    """sigmoid is DPO; sigmoid_norm divides log-probs by length (T3)."""
    beta: PositiveFloat = 0.1
    """Strength of the tie to the reference; L3: 0.1; T3 with sigmoid_norm: 5."""
    nll_weight: Annotated[float, Field(ge=0.0)] = 0.2
    """Weight of the negative log-likelihood of chosen, a mean over tokens of the global batch; L3: 0.2."""
    mask_format_tokens: bool = True
    """Leave header and end-of-turn tokens out of both sides' log-probs (L3)."""
    max_chosen_drop: PositiveFloat = 5.0
    """Nats per token by which the chosen log-prob may fall before training stops as collapsed."""


class RewardModelConfig(TrainConfig):
    """Bradley-Terry reward model on pairs and rankings."""

    kind: Literal["train"] = "train"
    learning_rate: PositiveFloat = 2e-6
    """RF (8B): 2e-6; L2: 1e-5 (5e-6 at 70B)."""
    margin: bool = False
    """Subtract a margin by strength (L2: 1, 2/3, 1/3, 0); L3 dropped it."""
    center: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of mean((r_chosen + r_rejected)^2), which keeps scores near zero (2312.09244)."""
    held_out: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.1
    """Share of prompts held out for the accuracy that is reported."""


class DistillConfig(TrainConfig):
    """Distillation from a live teacher on fixed text; the recipe's students use sequence-level distillation (SFT)."""

    learning_rate: PositiveFloat = 1e-5
    """As SFT."""
    method: Literal["sequence", "forward_kl", "reverse_kl", "jsd"] = "forward_kl"
    """sequence: cross-entropy on the text alone; the others: divergence of token distributions (same vocabulary)."""
    temperature: PositiveFloat = 1.0
    """Softmax temperature of both distributions."""
    top_k: NaturalInt = 0
    """Teacher tokens kept per position, the rest in one tail bucket; 0 uses the whole vocabulary."""
    ce_weight: Probability = 0.0
    """Weight of plain cross-entropy on the text; the divergence has 1 - ce_weight."""


class AverageConfig(Section):
    """Average the new policy with the previous ones (L3 4.1.5)."""

    num_policies: Annotated[int, Field(ge=2)] = 2
    """Newest checkpoints averaged, the new one included; none where there is no earlier policy."""


class TrainSection(Section):
    """Point 6: SFT from the base on the pooled rows of all rounds, then DPO on this round's pairs."""

    sft: SFTConfig
    """From the base."""
    dpo: DPOConfig | None = None
    """From the SFT checkpoint; absent skips it."""
    average: AverageConfig | None = None
    """Optional average of checkpoints."""


# --------------------------------------------------------------------------------------------------- evaluation


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
    """Resamples over prompts for the 95 % interval."""


class GateConfig(Section):
    """A round is promoted only if it is not worse than the best so far."""

    rule: Literal["not_worse", "lower_bound"] = "not_worse"
    """not_worse: the win rate itself reaches the threshold; lower_bound: the interval's lower end does."""
    min_win_rate: Probability = 0.5
    """Threshold on the win rate over the best policy so far."""


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
