"""Greedy averaging: which of several models to average, decided by evaluation. Loads no heavy library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Model = TypeVar("Model")


@dataclass(frozen=True)
class Trial(Generic[Model]):
    """An average that was tried.

    Attributes:
        members: positions of the averaged models, best first.
        average: the average itself.
        score: its score.
        kept: whether the score reached that of the average before.
    """

    members: tuple[int, ...]
    average: Model
    score: float
    kept: bool


@dataclass(frozen=True)
class Soup(Generic[Model]):
    """What greedy averaging found.

    Attributes:
        result: the average, or the best single model where no average was as good.
        members: positions of the models in it, best first.
        score: of the result.
        scores: of each single model, in the order given.
        trials: every average that was tried, in order.
    """

    result: Model
    members: tuple[int, ...]
    score: float
    scores: tuple[float, ...]
    trials: tuple[Trial[Model], ...]


def greedy_soup(
    models: Sequence[Model], average: Callable[[Sequence[Model]], Model], score: Callable[[Model], float]
) -> Soup[Model]:
    """Start from the best model and add the others, best first, each if the average's score does not fall.

    Recipe 1 of Model Soups (2203.05482). The result is at least as good as the best single model, by `score`. Models
    of equal score are taken in the order given.

    Args:
        models: one or more.
        average: makes the model of equal shares of those given, two or more.
        score: higher is better; asked once for each model and each average.
    """
    scores = tuple(score(model) for model in models)
    order = sorted(range(len(models)), key=lambda position: -scores[position])
    members: tuple[int, ...] = (order[0],)
    result, best = models[order[0]], scores[order[0]]
    trials: list[Trial[Model]] = []
    for position in order[1:]:
        tried = (*members, position)
        mixed = average([models[member] for member in tried])
        reached = score(mixed)
        trials.append(Trial(tried, mixed, reached, reached >= best))
        if reached >= best:
            members, result, best = tried, mixed, reached
    return Soup(result, members, best, scores, tuple(trials))
