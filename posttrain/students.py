"""After the rounds: students are distilled from the teacher, by default the final policy, as Llama 3.1's 8B and 70B."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.comparisons import Evaluated, evaluate_model, win_rate
from posttrain.config import StudentConfig
from posttrain.matrix import TEACHER
from posttrain.recipe import Recipe
from posttrain.runner import Runner
from posttrain.sources import Teacher, derive_seed, import_model, sampling_of
from posttrain.state import State
from posttrain.store.artifacts import Artifact


def distill_student(recipe: Recipe, run: Runner, state: State, student: StudentConfig) -> None:
    """Distill a student: SFT on the teacher's best samples, DPO on pairs of its own, then win rates."""
    label = f"students/{student.name}"
    base = import_model(run, f"{label}/base", student.base)
    wants_teacher = student.teacher == "teacher" and state.teacher is not None
    teacher = state.teacher if wants_teacher and state.teacher else Teacher(state.policy)
    learned = _best_of(recipe, run, state, student, teacher, "teacher", state.prompts)
    policy = run.stage(
        f"{label}/sft",
        "sft",
        {"model": base, "selected": [learned]},
        training=student.sft,
        seed=derive_seed(recipe.seed, "sft"),
    )
    if student.dpo is not None:
        pairs = _best_of(recipe, run, state, student, Teacher(policy), "student", state.prompts[-1:])
        policy = run.stage(
            f"{label}/dpo",
            "dpo",
            {"model": policy, "selected": [pairs]},
            training=student.dpo,
            seed=derive_seed(recipe.seed, "dpo"),
        )
    run.alias(f"{label}/policy", policy)
    evaluated = evaluate_model(recipe, run, label, Teacher(policy), state.eval_prompts)
    state.evaluated.append(evaluated)
    own_base = _evaluated(recipe, run, state, f"{label}/own_base", Teacher(base))
    taught_by = _evaluated(recipe, run, state, TEACHER, teacher, f"students/{TEACHER}")
    for role, opponent in (("own_base", own_base), ("teacher", taught_by)):
        rate = win_rate(recipe, run, f"{label}/eval/win_rate_vs_{role}", evaluated, opponent, state.reward_model)
        state.compared.append(rate)
    if taught_by not in (state.best, state.base):
        # Ratings need a chain of comparisons from the base to every model.
        over_policy = "students/teacher/eval/win_rate_vs_policy"
        state.compared.append(win_rate(recipe, run, over_policy, taught_by, state.best, state.reward_model))


def _evaluated(
    recipe: Recipe, run: Runner, state: State, name: str, model: Teacher, place: str | None = None
) -> Evaluated:
    """Return a model's evaluation under the name that it has in the rounds, or under its own: one model, one rating."""
    for known in (state.best, state.base):
        if known.model == model:
            return known
    return evaluate_model(recipe, run, name, model, state.eval_prompts, place)


def _best_of(
    recipe: Recipe,
    run: Runner,
    state: State,
    student: StudentConfig,
    model: Teacher,
    role: str,
    prompts: Sequence[Artifact],
) -> Artifact:
    """Sample a model on the run's prompts, score with the newest reward model, select."""
    assert state.reward_model is not None
    label = f"students/{student.name}/{role}"
    sampled = run.stage(
        f"{label}/completions",
        "sample",
        {"prompts": list(prompts), **model.inputs},
        endpoint=model.endpoint,
        sampling=sampling_of(recipe.completions, num_completions=student.num_completions),
        seed=derive_seed(recipe.seed, "students", role),
        round=recipe.num_rounds,
    )
    scored = run.stage(f"{label}/scores", "score", {"completions": [sampled], "reward_model": state.reward_model})
    return run.stage(
        f"{label}/select",
        "select",
        {"scored": scored},
        selection=recipe.select,
        seed=derive_seed(recipe.seed, "select", role),
    )
