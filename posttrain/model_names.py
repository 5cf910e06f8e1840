"""The models of a run: what a person types, what reports say, and where weights and held-out answers stand."""

from __future__ import annotations

import re
from dataclasses import dataclass

from posttrain.core.errors import DataError
from posttrain.runs import Run
from posttrain.store.artifacts import Artifact

_ROUND = re.compile(r"round_(\d+)/")
_STUDENT = re.compile(r"students/([^/]+)/")
_ANSWERS = "eval/completions"


@dataclass(frozen=True)
class ModelName:
    """A model of a run.

    Attributes:
        name: what matrices, ratings and labels call it: base, round_1/sft, round_1, students/NAME, teacher.
        weights: label of its weights; a teacher behind an endpoint has none.
        answers: label of its answers to the held-out prompts.
    """

    name: str
    weights: str
    answers: str


def model_names(found: Run) -> list[ModelName]:
    """List the models of a run, those that are still to come too."""
    labels = [*found.record["names"], *(row["label"] for row in found.record["planned"])]
    numbers = sorted({int(match[1]) for label in labels if (match := _ROUND.match(label))})
    students = dict.fromkeys(match[1] for label in labels if (match := _STUDENT.match(label)))
    models = [ModelName("base", "base/model", f"base/{_ANSWERS}")]
    for at in (f"round_{number}" for number in numbers):
        models.append(ModelName(at, f"{at}/policy", f"{at}/{_ANSWERS}"))
        models.append(ModelName(f"{at}/sft", f"{at}/sft", f"{at}/sft_checkpoint/{_ANSWERS}"))
    for at in (f"students/{student}" for student in students if student != "teacher"):
        models.append(ModelName(at, f"{at}/policy", f"{at}/{_ANSWERS}"))
        models.append(ModelName(f"{at}/own_base", f"{at}/base", f"{at}/own_base/{_ANSWERS}"))
    if "teacher" in labels or "teacher" in students:
        models.append(ModelName("teacher", "teacher", f"students/teacher/{_ANSWERS}"))
    return models


def known_model(found: Run, typed: str) -> ModelName | None:
    """Return a model by `best`, a name of the reports, or a student's bare name; None where the run has no such model.

    Two names of the same weights are one model: a round without DPO is its SFT checkpoint, `best` is a round or the
    base. It goes by the name that comes first in the run.
    """
    models = model_names(found)
    by_name = {model.name: model for model in models}
    asked = "teacher" if typed == "students/teacher" else typed
    model = by_name.get(asked) or by_name.get(f"students/{asked}")
    reference = _reference(found, "best" if typed == "best" else model.weights if model else "")
    same = (other for other in models if reference is not None and _reference(found, other.weights) == reference)
    return next(same, model)


def find_model(found: Run, typed: str) -> ModelName:
    """Return a model as `known_model` does.

    Raises:
        DataError: the run has no such model; those that it has are listed.
    """
    model = known_model(found, typed)
    if model is None:
        raise DataError(f"run {found.name} has no model '{typed}'; it has: {', '.join(listed(found)) or 'none yet'}")
    return model


def listed(found: Run) -> list[str]:
    """List the names of the models that the run has by now, `best` first, as errors show them."""
    names = found.record["names"].keys()
    best = ["best"] if "best" in names else []
    return best + [other.name for other in model_names(found) if {other.weights, other.answers} & names]


def find_weights(found: Run, typed: str) -> tuple[ModelName, Artifact]:
    """Return a model and its weights.

    Raises:
        DataError: the run has no such model, or not its weights.
    """
    model = find_model(found, typed)
    artifact = found.artifact(model.weights)
    if artifact is None:
        there = [other.name for other in model_names(found) if found.artifact(other.weights) is not None]
        raise DataError(
            f"run {found.name} has no weights of model '{typed}': they are not there yet, or behind an endpoint; "
            f"it has those of: {', '.join(there) or 'none yet'}"
        )
    return model, artifact


def find_answers(found: Run, typed: str) -> tuple[ModelName, Artifact]:
    """Return a model and its answers to the held-out prompts.

    Raises:
        DataError: the run has no such model, or not its answers.
    """
    model = known_model(found, typed)
    artifact = None if model is None else found.artifact(model.answers)
    if model is None or artifact is None:
        there = [other.name for other in model_names(found) if found.artifact(other.answers) is not None]
        raise DataError(
            f"run {found.name} has no held-out answers of a model '{typed}'; it has: {', '.join(there) or 'none'}"
        )
    return model, artifact


def reference_of(found: Run, typed: str) -> str | None:
    """Return `stage/address` of the model that a name stands for in the run as it is now."""
    model = known_model(found, typed)
    return None if model is None else _reference(found, model.weights)


def _reference(found: Run, label: str) -> str | None:
    name = found.record["names"].get(label)
    return None if name is None else name["reference"]
