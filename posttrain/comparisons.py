"""Evaluate models of a run and compare them: the stages behind every win rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.config import EndpointModel, LLMJudge, RewardModelJudge
from posttrain.functions import function_content
from posttrain.recipe import Recipe
from posttrain.runner import Runner
from posttrain.sources import Teacher, derive_seed, import_model, sampling_of, text_content
from posttrain.store.artifacts import Artifact


@dataclass(frozen=True)
class Evaluated:
    """A model, its name in ratings, its answers to the held-out prompts, and the label below which results stand."""

    name: str
    model: Teacher
    completions: Artifact
    place: str


def evaluate_model(
    recipe: Recipe, run: Runner, name: str, model: Teacher, prompts: Artifact, place: str | None = None
) -> Evaluated:
    """Sample a model's answers to the held-out prompts; every model gets the same seeds.

    Args:
        place: label below which results stand, where it is not the name.
    """
    place = place or name
    completions = run.stage(
        f"{place}/eval/completions",
        "sample",
        {"prompts": [prompts], **model.inputs},
        endpoint=model.endpoint,
        sampling=sampling_of(recipe.evaluate),
        seed=derive_seed(recipe.seed, "evaluate"),
        round=0,
    )
    return Evaluated(name, model, completions, place)


def win_rate(
    recipe: Recipe, run: Runner, label: str, a: Evaluated, b: Evaluated, reward_model: Artifact | None
) -> Artifact:
    """Compare A with B by the recipe's judge; the metrics hold A's win rate over B with its interval."""
    judge = recipe.evaluate.judge
    names = [a.name, b.name]
    if isinstance(judge, LLMJudge):
        weights = {} if isinstance(judge.model, EndpointModel) else {"judge": import_model(run, "judge", judge.model)}
        inputs = {"a": a.completions, "b": b.completions, **weights}
        return run.stage(
            label,
            "judged_win_rate",
            inputs,
            judge=judge,
            content=text_content(judge.template),
            names=names,
            seed=derive_seed(recipe.seed, "win_rate"),
        )
    scores = [_scores(recipe, run, evaluated, reward_model) for evaluated in (a, b)]
    return run.stage(label, "win_rate", {"a": scores[0], "b": scores[1]}, names=names)


def rate_all(recipe: Recipe, run: Runner, compared: Sequence[Artifact]) -> Artifact:
    """Rate every model of the run on one scale, the base at zero, from all comparisons."""
    return run.stage(
        "ratings",
        "ratings",
        {"win_rates": list(dict.fromkeys(compared))},
        anchor="base",
        seed=derive_seed(recipe.seed, "ratings"),
        num_bootstrap=recipe.evaluate.num_bootstrap,
    )


def _scores(recipe: Recipe, run: Runner, evaluated: Evaluated, reward_model: Artifact | None) -> Artifact:
    judge = recipe.evaluate.judge
    label = f"{evaluated.place}/eval/scores"
    if isinstance(judge, RewardModelJudge):
        model = reward_model if judge.model is None else import_model(run, "judge", judge.model)
        assert model is not None
        if judge.model is None:  # every round's reward model scores the same answers anew
            label = f"{label}_by_{model.address}"
        return run.stage(label, "score", {"completions": [evaluated.completions], "reward_model": model})
    assert not isinstance(judge, LLMJudge)
    return run.stage(
        label,
        "verify",
        {"completions": evaluated.completions},
        judge=judge,
        content=function_content(judge.function),
    )
