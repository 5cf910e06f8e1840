"""All that updates weights."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from posttrain.config.base import (
    Dtype,
    Guard,
    NaturalInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    Section,
    Tracker,
    how,
)


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
    load_in_4bit: bool = False
    """QLoRA (2305.14314): the frozen weights stand in 4 bits (nf4, double quantisation); needs a GPU, bitsandbytes."""


class TrainConfig(Section):
    """What all trainers share."""

    learning_rate: PositiveFloat
    """Peak AdamW learning rate."""
    epochs: PositiveFloat | None = None
    """Passes over the rows; give this or max_steps."""
    max_steps: PositiveInt | None = None
    """Optimizer steps; give this or epochs."""
    global_batch_size: PositiveInt = 128
    """Rows per optimizer step, over all devices: conversations, pairs, or rankings, which count as one."""
    device_batch_size: PositiveInt | None = how(None)
    """Most rows per forward pass on one device; as many as device_batch_tokens hold when absent."""
    device_batch_tokens: PositiveInt = how(8192)
    """Most tokens per forward pass on one device, a pair's or ranking's prompt counted once; a longer row is alone."""
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
    """Steps between resumable checkpoints; when absent, only a run that is told to stop writes one."""
    report_to: tuple[Tracker, ...] = how(())
    """Experiment trackers that are shown what metrics.jsonl gets; one that fails never stops a run."""

    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        if (self.epochs is None) == (self.max_steps is None):
            raise ValueError("give exactly one of epochs and max_steps")
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
    min_pairs: PositiveInt = how(2)
    """Fewest pairs, held-out ones included, that a reward model is made of; fewer than 100 are a warning. With 1, pairs
    of one prompt are trained on and nothing is measured."""
    refresh: Literal["each_round", "once"] = how("each_round")
    """each_round: trained anew on all labels so far (L3 4.1.2); once: in round 1, and later rounds label nothing."""


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
    """Average the new policy with previous ones (L3 4.1.5), unless the best of them wins more over the base alone."""

    num_policies: Annotated[int, Field(ge=2)] = 2
    """Newest checkpoints averaged, the new one included; none where there is no earlier policy."""
    rule: Literal["uniform", "weighted", "greedy"] = "uniform"
    """uniform: equal shares; weighted: `weights`; greedy: best first, each that does not lower it (2203.05482)."""
    weights: tuple[PositiveFloat, ...] | None = None
    """Shares of rule weighted, oldest policy first, of sum 1; with fewer policies the last ones, scaled to sum 1."""

    @model_validator(mode="after")
    def _weights_fit(self) -> AverageConfig:
        if (self.rule == "weighted") != (self.weights is not None):
            raise ValueError("weights belong to rule weighted: give both or neither")
        if self.weights is not None and len(self.weights) != self.num_policies:
            raise ValueError(f"weights has {len(self.weights)} shares for num_policies {self.num_policies}")
        if self.weights is not None and not math.isclose(sum(self.weights), 1.0, abs_tol=1e-6):
            raise ValueError(f"weights sum to {sum(self.weights):.6g}, not to 1")
        return self


class TrainSection(Section):
    """Point 6: SFT from the base on the pooled rows of all rounds, then DPO on this round's pairs."""

    sft: SFTConfig
    """From the base."""
    dpo: DPOConfig | None = None
    """From the SFT checkpoint; absent skips it."""
    average: AverageConfig | None = None
    """Optional average of checkpoints."""
