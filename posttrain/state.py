"""What one round hands to the next."""

from __future__ import annotations

from dataclasses import dataclass, field

from posttrain.comparisons import Evaluated
from posttrain.sources import Teacher
from posttrain.store.artifacts import Artifact


@dataclass
class State:
    """Data and policies so far; weights never go on training from round to round (L3 4.1).

    Attributes:
        base: The pretrained model and its evaluation.
        best: The best promoted policy and its evaluation; the base at first.
        seed_prompts: Prompts that a person wrote.
        eval_prompts: Held-out prompts.
        teacher: The recipe's teacher; None where the newest policy teaches itself.
        policies: The base and all promoted policies, oldest first.
        names: Names in the ratings of the promoted policies.
        preferences: Labels of all rounds.
        prompts: Cleaned prompts of all rounds.
        selected: Selected rows of all rounds.
        reward_model: The newest reward model.
        compared: Win rates of all rounds and students, for the ratings.
        checkpoints: Each round's SFT checkpoint, by the round's name.
        evaluated: Each round's final policy and each student, for the matrices.
    """

    base: Evaluated
    best: Evaluated
    seed_prompts: Artifact
    eval_prompts: Artifact
    teacher: Teacher | None
    policies: list[Artifact]
    names: dict[Artifact, str] = field(default_factory=dict)
    preferences: list[Artifact] = field(default_factory=list)
    prompts: list[Artifact] = field(default_factory=list)
    selected: list[Artifact] = field(default_factory=list)
    reward_model: Artifact | None = None
    compared: list[Artifact] = field(default_factory=list)
    checkpoints: dict[str, Artifact] = field(default_factory=dict)
    evaluated: list[Evaluated] = field(default_factory=list)

    @property
    def policy(self) -> Artifact:
        """Return the newest promoted policy."""
        return self.policies[-1]
