"""Labels of a round: who ranks the samples, as stages."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.config import (
    AnnotateConfig,
    EndpointModel,
    FileAnnotator,
    JudgeAnnotator,
    PolicyModel,
    VerifierAnnotator,
)
from posttrain.core.files import sha256_file
from posttrain.functions import function_content
from posttrain.recipe import Recipe
from posttrain.runner import Runner
from posttrain.sources import derive_seed, import_model, judge_prompt
from posttrain.store.artifacts import Artifact


def label_file(run: Runner, label: str, section: AnnotateConfig, held_out: Artifact, number: int) -> Artifact:
    """Take the round's rows that a person ranked, without those on held-out prompts."""
    assert isinstance(section.annotator, FileAnnotator)
    path = section.annotator.path.replace("{round}", str(number))
    rows = section.annotator.model_copy(update={"path": path})
    return run.stage(
        label,
        "label_file",
        {"held_out": held_out},
        annotator=rows,
        content=sha256_file(path),
        round=number,
        min_strength=section.min_strength,
    )


def label_completions(
    recipe: Recipe,
    run: Runner,
    label: str,
    section: AnnotateConfig,
    completions: Sequence[Artifact],
    policy: Artifact,
    number: int,
) -> Artifact:
    """Label samples by a verifier, a judge or a reward model."""
    annotator = section.annotator
    inputs: dict[str, Artifact | Sequence[Artifact]] = {"completions": completions}
    content: list[str | None] = []
    if isinstance(annotator, VerifierAnnotator):
        content = [function_content(annotator.function), function_content(annotator.edit_function)]
    elif not isinstance(annotator, FileAnnotator):
        content = [judge_prompt(annotator) if isinstance(annotator, JudgeAnnotator) else None]
        if isinstance(annotator.model, PolicyModel):
            inputs["model"] = policy
        elif not isinstance(annotator.model, EndpointModel):
            inputs["model"] = import_model(run, "annotator", annotator.model)
    return run.stage(
        label,
        "label",
        inputs,
        annotator=annotator,
        content=content,
        strengths=section.strengths,
        min_strength=section.min_strength,
        num_pairs=section.num_pairs,
        seed=derive_seed(recipe.seed, "label", number),
        round=number,
    )
