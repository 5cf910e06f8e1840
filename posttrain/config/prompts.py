"""Where prompts come from, how the teacher writes them, and what they must pass."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from posttrain.config.base import NaturalInt, Nucleus, PositiveFloat, PositiveInt, Probability, Section, how


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
    held_out: bool = False
    """Make them from the share of the world that no model is pretrained or trained on: for evaluation."""


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
