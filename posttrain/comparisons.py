"""Evaluate models of a run and compare them: the stages behind every win rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.config import EndpointModel, LLMJudge, RewardModelJudge, RubricJudge
from posttrain.core.errors import PosttrainError
from posttrain.functions import function_content
from posttrain.recipe import TRAINED_AGAINST, Recipe, trained_against
from posttrain.recipe_file import RecipeError
from posttrain.runner import Runner
from posttrain.sources import Teacher, derive_seed, import_model, judge_prompt, sampling_of
from posttrain.store.artifacts import Artifact


class DriftError(PosttrainError, RuntimeError):
    """Report a policy that has moved past a threshold of `evaluate.drift`; all stages so far are kept."""


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
            content=judge_prompt(judge),
            names=names,
            seed=derive_seed(recipe.seed, "win_rate"),
        )
    scores = [scores_of(recipe, run, evaluated, reward_model) for evaluated in (a, b)]
    return run.stage(label, "win_rate", {"a": scores[0], "b": scores[1]}, names=names)


def is_trained_against(recipe: Recipe, run: Runner, reward_model: Artifact | None) -> bool:
    """Tell, by content, whether the gate's judge is the reward model that the policy is trained against.

    Raises:
        RecipeError: It is, under another path, and the recipe does not allow it.
    """
    judge = recipe.evaluate.judge
    if trained_against(recipe, judge):
        return True
    if not isinstance(judge, RewardModelJudge) or judge.model is None or reward_model is None:
        return False
    is_own = import_model(run, "judge", judge.model).reference == reward_model.reference
    if is_own and not recipe.gate.allow_judge_trained_against:
        raise RecipeError(f"evaluate.judge.model: it holds the same model as reward_model.model; {TRAINED_AGAINST}")
    return is_own


def rate_all(recipe: Recipe, run: Runner, compared: Sequence[Artifact]) -> Artifact:
    """Rate every model of the run on one scale, the base at zero, from the rounds' comparisons.

    Only where the recipe wants no matrix, which has every pair and ratings of its own.
    """
    return run.stage(
        "ratings",
        "ratings",
        {"win_rates": list(dict.fromkeys(compared))},
        anchor="base",
        seed=derive_seed(recipe.seed, "ratings"),
        num_bootstrap=recipe.evaluate.num_bootstrap,
    )


def scores_of(recipe: Recipe, run: Runner, evaluated: Evaluated, reward_model: Artifact | None) -> Artifact:
    """Score a model's answers by the recipe's judge, which is a verifier, a reward model or a rubric judge."""
    judge = recipe.evaluate.judge
    label = f"{evaluated.place}/eval/scores"
    if isinstance(judge, RewardModelJudge):
        model = reward_model if judge.model is None else import_model(run, "judge", judge.model)
        assert model is not None
        if judge.model is None:  # every round's reward model scores the same answers anew
            label = f"{label}_by_{model.address}"
        return run.stage(label, "score", {"completions": [evaluated.completions], "reward_model": model})
    assert not isinstance(judge, LLMJudge)
    if isinstance(judge, RubricJudge):
        weights = {} if isinstance(judge.model, EndpointModel) else {"judge": import_model(run, "judge", judge.model)}
        return run.stage(
            label,
            "rate_answers",
            {"completions": [evaluated.completions], **weights},
            judge=judge,
            content=judge_prompt(judge),
            seed=derive_seed(recipe.seed, "judge"),
        )
    return run.stage(
        label,
        "verify",
        {"completions": evaluated.completions},
        judge=judge,
        content=function_content(judge.function),
    )


def watch_drift(recipe: Recipe, run: Runner, number: int, policy: Evaluated, base: Evaluated) -> None:
    """Measure how far a round's policy has moved from the base.

    Raises:
        DriftError: A threshold is passed, and the recipe says that the run stops there.
    """
    limits = recipe.evaluate.drift
    if limits is None:
        return
    assert policy.model.model is not None and base.model.model is not None
    measured = run.stage(
        f"{policy.name}/drift",
        "drift",
        {
            "policy": policy.model.model,
            "base": base.model.model,
            "policy_answers": policy.completions,
            "base_answers": base.completions,
        },
        limits=limits,
        round=number,
    )
    alarms = [row for row in measured.metrics.get("drift", ()) if row["alarm"]]
    if alarms and limits.on_alarm == "stop":
        told = "; ".join(f"{row['measure']}: {row['reason']}" for row in alarms)
        raise DriftError(
            f"{policy.name} has drifted: {told}. Look at {measured.path.parent.parent / policy.completions.reference}; "
            "raise the threshold in evaluate.drift, or set evaluate.drift.on_alarm to warn"
        )
