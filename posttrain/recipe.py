"""Read a recipe: typed YAML, every fault of the file listed at once, no torch loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from posttrain import config as sections
from posttrain.config import (
    AnnotateConfig,
    EvaluateConfig,
    Execution,
    GateConfig,
    GivenRewardModel,
    Magpie,
    PolicyModel,
    PositiveInt,
    PromptsConfig,
    RewardModelConfig,
    RewardModelJudge,
    SamplingConfig,
    Section,
    SelectConfig,
    StudentConfig,
    TeacherModel,
    TrainSection,
    WeightsModel,
)
from posttrain.recipe_faults import describe
from posttrain.recipe_file import raise_faults, read_data

TRAINED_AGAINST = (
    "the policy is trained against it, so its win rates rise even where the answers get worse: name another judge (a "
    "verifier, an llm, a reward_model with a model of its own), or set gate.allow_judge_trained_against: true"
)


class Recipe(Section):
    """One run: rounds of annotation, reward model, prompts, samples, training and win rates, then students."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Name of the run: its results are named under runs/<name>."""
    seed: int = 0
    """Seed from which every stage derives its own."""
    num_rounds: PositiveInt = 1
    """Alignment rounds; L3 ran six."""
    template_date: str | None = None
    """Date that templates print (Llama 3.2's reads the clock otherwise)."""
    base: WeightsModel
    """The pretrained model that SFT starts from in every round."""
    teacher: TeacherModel = PolicyModel()
    """Who writes prompts and, where `completions.engines` says so, completions."""
    annotate: AnnotateConfig | None = None
    """Preference labels; absent when the reward model is given."""
    reward_model: Annotated[RewardModelConfig | GivenRewardModel, Field(discriminator="kind")]
    """Trained anew each round on all preference rows so far, or given and fixed."""
    prompts: PromptsConfig
    """Where a round's prompts come from."""
    completions: SamplingConfig
    """K samples per prompt."""
    select: SelectConfig = SelectConfig()
    """What is trained on."""
    train: TrainSection
    """SFT, DPO, average."""
    evaluate: EvaluateConfig
    """Win rates."""
    gate: GateConfig = GateConfig()
    """Promotion."""
    students: tuple[StudentConfig, ...] = ()
    """Distilled after the rounds."""
    execution: Execution = Execution()
    """Device, workers, processes."""

    @model_validator(mode="after")
    def _sections_fit(self) -> Recipe:
        faults = list(_misfits(self))
        if faults:
            raise ValueError("; ".join(faults))
        return self


def trained_against(recipe: Recipe, judge: Section) -> bool:
    """Tell whether a judge is the reward model that the policy is trained against, as far as the recipe says."""
    if not isinstance(judge, RewardModelJudge):
        return False
    given = recipe.reward_model.model if isinstance(recipe.reward_model, GivenRewardModel) else None
    return judge.model is None or judge.model == given


def _misfits(recipe: Recipe) -> Iterator[str]:
    if trained_against(recipe, recipe.evaluate.judge) and not recipe.gate.allow_judge_trained_against:
        yield f"evaluate.judge is the run's own reward model; {TRAINED_AGAINST}"
    if isinstance(recipe.reward_model, RewardModelConfig) and recipe.annotate is None:
        yield "reward_model.kind train needs an annotate section: a reward model learns from preference rows"
    if isinstance(recipe.reward_model, GivenRewardModel) and recipe.annotate is not None:
        yield "annotate labels rows for a trained reward model, but reward_model.kind is given: remove one of the two"
    if not recipe.prompts.generators and not recipe.prompts.files:
        yield "prompts has neither generators nor files: a round would have no prompts"
    if isinstance(recipe.teacher, sections.EndpointModel) and any(
        isinstance(generator, Magpie) for generator in recipe.prompts.generators
    ):
        yield (
            "prompts.generators has magpie, but a chat endpoint cannot complete a user turn: "
            "use self_instruct or a teacher with weights"
        )
    if isinstance(recipe.teacher, PolicyModel) and {"teacher", "policy"} <= set(recipe.completions.engines):
        yield "completions.engines names teacher and policy, but the teacher is the policy: name one of the two"
    names = [student.name for student in recipe.students]
    if len(set(names)) < len(names):
        yield f"students have the same name twice: {', '.join(sorted({n for n in names if names.count(n) > 1}))}"
    reserved = {"base", "best", "teacher"}
    if reserved & set(names):
        yield f"students are called {', '.join(sorted(reserved & set(names)))}, which names another model of the run"


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, override and validate a recipe, without looking at the files that it names (see preflight.py).

    Args:
        path: YAML file. Relative paths inside it are relative to its own folder.
        overrides: `section.key=value` items; the value is read as YAML, paths are relative to the working directory.

    Raises:
        RecipeError: The file is missing, is not YAML, or has faults; all of them are listed.
    """
    recipe, faults = validate(read_data(path, overrides))
    raise_faults(str(path), faults)
    assert recipe is not None
    return recipe


def validate(data: dict[str, Any]) -> tuple[Recipe | None, list[str]]:
    """Return the recipe, or None and every fault of the data."""
    try:
        return Recipe.model_validate(data), []
    except ValidationError as error:
        return None, [describe(item, Recipe, data) for item in error.errors()]


def recipe_json(recipe: Recipe) -> str:
    """Return the resolved recipe, defaults included, as indented JSON."""
    return json.dumps(recipe.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
