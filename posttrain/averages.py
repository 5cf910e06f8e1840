"""The average of a round's new policy with earlier ones, and the evaluation that it has to stand."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.comparisons import evaluate_model, win_rate
from posttrain.recipe import Recipe
from posttrain.runner import Runner
from posttrain.sources import Teacher
from posttrain.state import State
from posttrain.store.artifacts import Artifact
from posttrain.train.soup import Soup, greedy_soup


def average_policies(recipe: Recipe, run: Runner, state: State, label: str, models: Sequence[Artifact]) -> Artifact:
    """Average policies by the recipe's rule; where the best of them wins more over the base, take that one.

    All are compared on the held-out prompts by the recipe's judge, with the same seeds as the round's own evaluation.

    Args:
        label: the round's.
        models: oldest first, the new policy last.
    """
    section = recipe.train.average
    assert section is not None
    places = {model: f"{label}/single_{number}" for number, model in enumerate(models, start=1)}

    def rate_of(model: Artifact) -> Artifact:
        # By the name that it has, or would have, in the ratings: so no comparison is judged twice.
        name, place = state.names.get(model, label), places[model]
        evaluated = evaluate_model(recipe, run, name, Teacher(model), state.eval_prompts, place)
        return win_rate(recipe, run, f"{place}/win_rate_vs_base", evaluated, state.base, state.reward_model)

    def mix(name: str, chosen: Sequence[Artifact], shares: Sequence[float]) -> Artifact:
        made = run.stage(name, "average", {"models": chosen}, weights=list(shares))
        places[made] = f"{label}/averaged_{number_of_trial()}"
        return made

    def number_of_trial() -> int:
        return len(places) - len(models) + 1

    def mix_equally(chosen: Sequence[Artifact]) -> Artifact:
        return mix(f"{label}/average_{number_of_trial()}", chosen, _equal(chosen))

    if section.rule == "greedy":
        average, members = _last_kept(greedy_soup(models, mix_equally, lambda model: _score(rate_of(model))))
        run.alias(f"{label}/average", average)
    else:
        shares = _equal(models) if section.weights is None else _scaled(section.weights[-len(models) :])
        average, members = mix(f"{label}/average", models, shares), tuple(range(len(models)))
    singles = [rate_of(model) for model in models]
    choice = run.stage(
        f"{label}/average_choice",
        "choose",
        {"singles": singles, "average": rate_of(average)},
        rule=section.rule,
        members=list(members),
    )
    if choice.metrics.get("taken", "average") == "average":  # a plan assumes it
        return average
    return models[choice.metrics["best_single"]]


def _score(rate: Artifact) -> float:
    """Return a win rate; in a plan, where none is known, all models are taken to be equally good."""
    value = rate.metrics.get("win_rate")
    return 0.0 if value is None else float(value)


def _last_kept(soup: Soup[Artifact]) -> tuple[Artifact, tuple[int, ...]]:
    """Return the average that greedy averaging found, or the first that it refused where it found none."""
    kept = [trial for trial in soup.trials if trial.kept]
    trial = kept[-1] if kept else soup.trials[0]
    return trial.average, trial.members


def _equal(models: Sequence[Artifact]) -> list[float]:
    return [1.0 / len(models)] * len(models)


def _scaled(weights: Sequence[float]) -> list[float]:
    return [weight / sum(weights) for weight in weights]
