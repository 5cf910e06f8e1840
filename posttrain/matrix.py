"""After the rounds: every pair of models by every judge, side by side, and how far the judges agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from posttrain.comparisons import Evaluated, evaluate_model, scores_of
from posttrain.config import (
    EndpointModel,
    FurtherJudge,
    LabelsJudge,
    LLMJudge,
    RewardModelJudge,
    RubricJudge,
    VerifierJudge,
)
from posttrain.core.errors import DataError, ModelError
from posttrain.core.files import sha256_file
from posttrain.functions import function_content
from posttrain.recipe import Recipe
from posttrain.runner import Runner
from posttrain.sources import Teacher, derive_seed, import_model, judge_prompt
from posttrain.state import State
from posttrain.store.artifacts import Artifact
from reward.errors import RewardError

TEACHER = "teacher"
"""Name of the recipe's own teacher in matrices and ratings."""


def compare_all(recipe: Recipe, run: Runner, state: State) -> None:
    """Make a matrix with ratings for each judge, the gate's first, and measure their agreement."""
    models = list(models_of_run(recipe, run, state))
    if len(models) < 2:  # no round was taken, and nothing was distilled
        return
    judges: dict[str, FurtherJudge] = {recipe.evaluate.judge.kind: recipe.evaluate.judge, **recipe.evaluate.judges}
    matrices = {name: _placed(recipe, run, state, models, name, judge) for name, judge in judges.items()}
    if len(matrices) > 1:
        run.stage(
            "evaluation/agreement",
            "agreement",
            {"matrices": list(matrices.values())},
            names=list(matrices),
            seed=derive_seed(recipe.seed, "agreement"),
            num_bootstrap=recipe.evaluate.num_bootstrap,
        )


def models_of_run(recipe: Recipe, run: Runner, state: State) -> Iterator[Evaluated]:
    """Yield base, each round's SFT checkpoint and final policy, students and the teacher, one name for each model."""
    seen: set[Artifact] = set()
    final = {evaluated.name: evaluated for evaluated in state.evaluated}
    rounds, teacher = _of_rounds(recipe, run, state, final), _teacher(recipe, run, state)
    for evaluated in [state.base, *rounds, *final.values(), *teacher]:
        if evaluated.completions not in seen:
            seen.add(evaluated.completions)
            yield evaluated


def _of_rounds(recipe: Recipe, run: Runner, state: State, final: dict[str, Evaluated]) -> Iterator[Evaluated]:
    for label, checkpoint in state.checkpoints.items():
        if checkpoint != final[label].model.model:
            place = f"{label}/sft_checkpoint"
            yield evaluate_model(recipe, run, f"{label}/sft", Teacher(checkpoint), state.eval_prompts, place)
        yield final[label]


def _teacher(recipe: Recipe, run: Runner, state: State) -> Iterator[Evaluated]:
    if state.teacher is not None:
        yield evaluate_model(recipe, run, TEACHER, state.teacher, state.eval_prompts, f"students/{TEACHER}")


def _placed(
    recipe: Recipe, run: Runner, state: State, models: Sequence[Evaluated], name: str, judge: FurtherJudge
) -> Artifact:
    """Make a judge's matrix; an error of data or of the judge names the judge's place in the recipe."""
    try:
        return _matrix(recipe, run, state, models, name, judge)
    except (DataError, RewardError, ModelError) as error:
        place = "evaluate.judge" if judge is recipe.evaluate.judge else f"evaluate.judges.{name}"
        error.args = (f"{place}: {error}", *error.args[1:])  # the error itself: a verifier's holds its rows
        raise


def _matrix(
    recipe: Recipe, run: Runner, state: State, models: Sequence[Evaluated], name: str, judge: FurtherJudge
) -> Artifact:
    """Run the stage of a judge's matrix, and the one that scores all answers where the judge scores."""
    label, is_main = f"evaluation/{name}", judge is recipe.evaluate.judge
    completions = [model.completions for model in models]
    settings: dict[str, Any] = {
        "names": [model.name for model in models],
        "anchor": state.base.name,
        "seed": derive_seed(recipe.seed, "win_rate"),
        "num_bootstrap": recipe.evaluate.num_bootstrap,
    }
    if isinstance(judge, LabelsJudge):
        settings |= {"judge_name": name, "judge": judge, "content": sha256_file(judge.path)}
        return run.stage(f"{label}/matrix", "labelled_matrix", {"completions": completions}, **settings)
    if isinstance(judge, LLMJudge):
        return run.stage(
            f"{label}/matrix",
            "judged_matrix",
            {"completions": completions, "known": state.compared if is_main else [], **_weights(run, name, judge)},
            judge_name=name,
            judge=judge,
            content=judge_prompt(judge),
            num_prompts=recipe.evaluate.matrix_prompts,
            **settings,
        )
    if is_main:
        scored = [scores_of(recipe, run, model, state.reward_model) for model in models]
    else:
        scored = [_scores_of_all(recipe, run, state, completions, name, judge)]
    inputs = {"completions": completions, "scored": scored}
    return run.stage(f"{label}/matrix", "matrix", inputs, judge_name=name, **settings)


def _scores_of_all(
    recipe: Recipe,
    run: Runner,
    state: State,
    completions: Sequence[Artifact],
    name: str,
    judge: VerifierJudge | RewardModelJudge | RubricJudge,
) -> Artifact:
    """Score the answers of all models in one stage: the judge is opened once."""
    label = f"evaluation/{name}/scores"
    if isinstance(judge, RewardModelJudge):
        model = state.reward_model if judge.model is None else import_model(run, f"judges/{name}", judge.model)
        assert model is not None
        return run.stage(label, "score", {"completions": completions, "reward_model": model})
    weights = _weights(run, name, judge) if isinstance(judge, RubricJudge) else {}
    return run.stage(
        label,
        "rate_answers",
        {"completions": completions, **weights},
        judge=judge,
        content=judge_prompt(judge) if isinstance(judge, RubricJudge) else function_content(judge.function),
        seed=derive_seed(recipe.seed, "judge"),
    )


def _weights(run: Runner, name: str, judge: LLMJudge | RubricJudge) -> dict[str, Artifact]:
    """Return a judge's weights as a stage input; an endpoint is part of the config instead."""
    return {} if isinstance(judge.model, EndpointModel) else {"judge": import_model(run, f"judges/{name}", judge.model)}
