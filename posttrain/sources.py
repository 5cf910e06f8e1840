"""Where models, prompts and seeds of a run come from, as artifacts and content hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.config import (
    EndpointModel,
    FolderModel,
    HubModel,
    JudgeAnnotator,
    LLMJudge,
    PracticeModel,
    PromptFile,
    PromptSource,
    RubricJudge,
    Section,
)
from posttrain.core.files import sha256_file
from posttrain.core.model_files import hub_folder, model_hash, resolve
from posttrain.recipe import Recipe
from posttrain.runner import Runner
from posttrain.store.artifacts import Artifact
from posttrain.store.fingerprint import ADDRESS_LENGTH
from reward.judges import pairwise, rubric

SAMPLING_FIELDS = ("num_completions", "temperature", "top_p", "top_k", "max_completion_tokens")


@dataclass(frozen=True)
class Teacher:
    """Who answers: a model with weights here, or one behind an endpoint."""

    model: Artifact | None
    endpoint: EndpointModel | None = None

    @property
    def inputs(self) -> dict[str, Artifact]:
        """Return the model as a stage input; an endpoint is part of the config instead."""
        return {} if self.model is None else {"model": self.model}


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a seed for one purpose of a run: the first 31 bits of a hash of the run's seed and the purpose."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def sampling_of(section: Any, **changes: Any) -> dict[str, Any]:
    """Return a section's sampling parameters, the system prompt included where it has one."""
    values = {name: getattr(section, name) for name in SAMPLING_FIELDS}
    return {**values, "system_prompt": getattr(section, "system_prompt", None), **changes}


def import_model(run: Runner, label: str, source: PracticeModel | FolderModel | HubModel) -> Artifact:
    """Return a model as an artifact: a practice model is pretrained, a folder or hub commit is named by its content."""
    if isinstance(source, PracticeModel):
        return run.stage(label, "practice_model", model=source)
    if isinstance(source, FolderModel):
        path = Path(source.path)
        artifact = Artifact("folder", model_hash(path)[:ADDRESS_LENGTH], path)
    else:
        path = hub_folder(source.repo, source.revision)
        artifact = Artifact("hub", f"{source.repo}@{source.revision}", path)
    run.alias(label, artifact)
    return artifact


def fetch_models(recipe: Recipe) -> None:
    """Fetch every hub model that a recipe names, so that none is missing when a run has gone on for hours.

    Raises:
        ModelError: A model is neither in the cache nor can it be fetched.
    """
    for model in dict.fromkeys(hub_models(recipe)):
        resolve(model.repo, model.revision)


def hub_models(value: Any) -> Iterator[HubModel]:
    """Yield every hub model inside a section, as often as it stands there."""
    if isinstance(value, HubModel):
        yield value
    elif isinstance(value, Section):
        for name in type(value).model_fields:
            yield from hub_models(getattr(value, name))
    elif isinstance(value, tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from hub_models(item)


def import_teacher(run: Runner, label: str, source: PracticeModel | FolderModel | HubModel | EndpointModel) -> Teacher:
    """Return the teacher: weights as an artifact, or an endpoint."""
    if isinstance(source, EndpointModel):
        return Teacher(None, source)
    return Teacher(import_model(run, label, source))


def prompts_of_source(
    recipe: Recipe,
    run: Runner,
    label: str,
    source: PromptSource,
    purpose: str,
    exclude: Sequence[Artifact],
    part: int = 1,
    num_parts: int = 1,
) -> Artifact:
    """Return the prompts of a file or of the practice world.

    Args:
        purpose: Prompts for different purposes are drawn with different seeds.
        exclude: Prompts that must not be among them.
        part: Which of `num_parts` disjoint parts is taken, counted from 1.
    """
    return run.stage(
        label,
        "source_prompts",
        {"exclude": list(exclude)},
        source=source,
        content=sha256_file(source.path) if isinstance(source, PromptFile) else None,
        seed=derive_seed(recipe.seed, purpose),
        part=part,
        num_parts=num_parts,
    )


def text_content(template: str | None) -> str | None:
    """Return what names a template: the hash of a text file, or the name of a built-in one."""
    return sha256_file(template) if template and template.endswith(".txt") else template


def judge_prompt(judge: JudgeAnnotator | LLMJudge | RubricJudge) -> str:
    """Return what names a judge's prompt: the hash of its text, the built-in one's where the recipe names none."""
    built_in = rubric.TEMPLATE if isinstance(judge, RubricJudge) else pairwise.TEMPLATE
    return sha256_file(judge.template or built_in)
