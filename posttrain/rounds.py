"""The loop: a recipe is unrolled into stages, round by round, and each stage runs if its result is not there yet.

    annotate → reward model → prompts → completions → score, select → SFT, DPO → win rates, gate

The order is that of The Llama 3 Herd of Models (2407.21783), section 4.1. A call of `run.stage` names a row of the
table in stages.py; what comes back is an artifact, which later stages take as input.
"""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.annotators import label_completions, label_file
from posttrain.averages import average_policies
from posttrain.comparisons import evaluate_model, is_trained_against, rate_all, watch_drift, win_rate
from posttrain.config import PolicyModel, RewardModelConfig, VerifierJudge
from posttrain.functions import function_content
from posttrain.matrix import compare_all
from posttrain.recipe import Recipe
from posttrain.runner import Runner
from posttrain.sources import (
    Teacher,
    derive_seed,
    import_model,
    import_teacher,
    prompts_of_source,
    sampling_of,
    text_content,
)
from posttrain.state import State
from posttrain.store.artifacts import Artifact
from posttrain.students import distill_student


def run_recipe(recipe: Recipe, run: Runner) -> State:
    """Run all rounds of a recipe, then distill its students, compare every pair of models and rate them all."""
    state = prepare(recipe, run)
    for number in range(1, recipe.num_rounds + 1):
        run_round(recipe, run, state, number)
    run.alias("best", state.policy)
    for student in recipe.students:
        distill_student(recipe, run, state, student)
    if recipe.evaluate.matrix:
        compare_all(recipe, run, state)
    else:
        rate_all(recipe, run, state.compared)
    return state


def run_round(recipe: Recipe, run: Runner, state: State, number: int) -> None:
    """Run one round: seven points."""
    annotate(recipe, run, state, number)
    train_reward_model(recipe, run, state, number)
    prompts = write_prompts(recipe, run, state, number)
    completions = sample_completions(recipe, run, state, number, prompts)
    selected = score_and_select(recipe, run, state, number, completions)
    policy = train_policy(recipe, run, state, number, selected)
    evaluate_and_gate(recipe, run, state, number, policy)


def prepare(recipe: Recipe, run: Runner) -> State:
    """Make what all rounds share: base, teacher, seed prompts, held-out prompts and the base's own evaluation."""
    base = import_model(run, "base/model", recipe.base)
    held_out = prompts_of_source(recipe, run, "eval_prompts", recipe.evaluate.prompts, "evaluate", exclude=[])
    seeds = prompts_of_source(recipe, run, "seed_prompts", recipe.prompts.seed_prompts, "seeds", exclude=[held_out])
    teacher = None if isinstance(recipe.teacher, PolicyModel) else import_teacher(run, "teacher", recipe.teacher)
    evaluated = evaluate_model(recipe, run, "base", Teacher(base), held_out)
    return State(evaluated, evaluated, seeds, held_out, teacher, policies=[base])


def annotate(recipe: Recipe, run: Runner, state: State, number: int) -> None:
    """1. Sample from the newest policies and label: edited > chosen > rejected, near-ties left out (L3 4.2.1)."""
    section = recipe.annotate
    if section is None or (number > 1 and reward_model_is_frozen(recipe)):
        return
    label = f"round_{number}/annotate"
    if section.prompts is None:
        state.preferences.append(label_file(run, f"{label}/labels", section, state.eval_prompts, number))
        return
    prompts = prompts_of_source(
        recipe,
        run,
        f"{label}/prompts",
        section.prompts,
        "annotate",
        exclude=[state.eval_prompts],
        part=number,
        num_parts=1 if reward_model_is_frozen(recipe) else recipe.num_rounds,
    )
    newest = state.policies[-section.num_policies :]
    sampled = [
        run.stage(
            f"{label}/completions_{index}",
            "sample",
            {"prompts": [prompts], "model": policy},
            endpoint=None,
            sampling=sampling_of(section),
            seed=derive_seed(recipe.seed, "annotate", number, index),
            round=number,
        )
        for index, policy in enumerate(reversed(newest), start=1)
    ]
    state.preferences.append(label_completions(recipe, run, f"{label}/labels", section, sampled, state.policy, number))


def train_reward_model(recipe: Recipe, run: Runner, state: State, number: int) -> None:
    """2. Train the reward model from the base on all preference rows so far, or take the given one (L3 4.1.2)."""
    section = recipe.reward_model
    if number > 1 and reward_model_is_frozen(recipe):
        return
    if not isinstance(section, RewardModelConfig):
        state.reward_model = import_model(run, "reward_model", section.model)
        return
    assert state.base.model.model is not None
    state.reward_model = run.stage(
        f"round_{number}/reward_model",
        "reward_model",
        {"model": state.base.model.model, "preferences": state.preferences},
        training=section,
        seed=derive_seed(recipe.seed, "reward_model"),
    )


def reward_model_is_frozen(recipe: Recipe) -> bool:
    """Tell whether the reward model of round 1 serves in all rounds."""
    section = recipe.reward_model
    return isinstance(section, RewardModelConfig) and section.refresh == "once"


def write_prompts(recipe: Recipe, run: Runner, state: State, number: int) -> Artifact:
    """3. The teacher writes new prompts; duplicates, evaluation prompts and broken ones are dropped with a reason."""
    section = recipe.prompts
    label = f"round_{number}/prompts"
    teacher = state.teacher or Teacher(state.policy)
    known = [state.seed_prompts, *state.prompts]
    shown: dict[str, Artifact | Sequence[Artifact]] = {"seeds": state.seed_prompts, "known": state.prompts}
    written = [
        run.stage(
            f"{label}/{generator.kind}_{index}",
            generator.kind,
            {**teacher.inputs, **(shown if generator.kind == "self_instruct" else {})},
            generator=generator,
            endpoint=teacher.endpoint,
            content=text_content(getattr(generator, "template", None)),
            seed=derive_seed(recipe.seed, "prompts", number, index),
            round=number,
        )
        for index, generator in enumerate(section.generators, start=1)
    ]
    written += [
        prompts_of_source(
            recipe, run, f"{label}/file_{index}", source, f"file_{index}", [], part=number, num_parts=recipe.num_rounds
        )
        for index, source in enumerate(section.files, start=1)
    ]
    assert state.base.model.model is not None
    clean = run.stage(
        f"{label}/clean",
        "clean_prompts",
        {"written": written, "known": known, "held_out": state.eval_prompts, "model": state.base.model.model},
        cleaning=section.cleaning,
        check_content=function_content(section.cleaning.check),
        num_prompts=section.num_prompts,
        min_prompts=section.min_prompts,
        seed=derive_seed(recipe.seed, "clean", number),
        round=number,
    )
    state.prompts.append(clean)
    return clean


def sample_completions(recipe: Recipe, run: Runner, state: State, number: int, prompts: Artifact) -> list[Artifact]:
    """4. K samples per prompt from the teacher, the newest policy, or both (L3 4.2.2)."""
    policy = Teacher(state.policy)
    sources = {"policy": policy, "teacher": state.teacher or policy}
    # One model asked twice (a teacher that is the base, in round 1) would give each sample index twice.
    asked: dict[Teacher, str] = {}
    for engine in recipe.completions.engines:
        asked.setdefault(sources[engine], engine)
    return [
        run.stage(
            f"round_{number}/completions/{engine}",
            "sample",
            {"prompts": [prompts], **source.inputs},
            endpoint=source.endpoint,
            sampling=sampling_of(recipe.completions),
            seed=derive_seed(recipe.seed, "completions", engine, number),
            round=number,
        )
        for source, engine in asked.items()
    ]


def score_and_select(recipe: Recipe, run: Runner, state: State, number: int, completions: list[Artifact]) -> Artifact:
    """5. Score every sample; best of K for SFT, chosen and rejected for DPO, never a sample cut at the token limit."""
    assert state.reward_model is not None
    label = f"round_{number}"
    scored = run.stage(f"{label}/scores", "score", {"completions": completions, "reward_model": state.reward_model})
    judge_samples(recipe, run, label, scored)
    seed = derive_seed(recipe.seed, "select", number)
    selected = run.stage(f"{label}/select", "select", {"scored": scored}, selection=recipe.select, seed=seed)
    state.selected.append(selected)
    return selected


def judge_samples(recipe: Recipe, run: Runner, label: str, scored: Artifact) -> None:
    """Give some samples their gold score where a verifier decides the win rates: the report shows what K was worth."""
    section, judge = recipe.evaluate, recipe.evaluate.judge
    if isinstance(judge, VerifierJudge) and section.gold_prompts:
        run.stage(
            f"{label}/gold",
            "gold",
            {"scored": scored},
            judge=judge,
            content=function_content(judge.function),
            num_prompts=section.gold_prompts,
            max_error_rate=section.gold_max_error_rate,
        )


def train_policy(recipe: Recipe, run: Runner, state: State, number: int, selected: Artifact) -> Artifact:
    """6. SFT from the base on the pooled rows of all rounds, DPO from that on this round's pairs, optional average."""
    label, train = f"round_{number}", recipe.train
    assert state.base.model.model is not None
    start: dict[str, Artifact | Sequence[Artifact]] = {"model": state.base.model.model, "selected": state.selected}
    policy = run.stage(f"{label}/sft", "sft", start, training=train.sft, seed=derive_seed(recipe.seed, "sft"))
    state.checkpoints[label] = policy
    if train.dpo is not None:
        start = {"model": policy, "selected": [selected]}
        policy = run.stage(f"{label}/dpo", "dpo", start, training=train.dpo, seed=derive_seed(recipe.seed, "dpo"))
    earlier = state.policies[1:]
    if train.average is not None and earlier:
        models = [*earlier[-(train.average.num_policies - 1) :], policy]
        policy = average_policies(recipe, run, state, label, models)
    run.alias(f"{label}/policy", policy)
    return policy


def evaluate_and_gate(recipe: Recipe, run: Runner, state: State, number: int, policy: Artifact) -> None:
    """7. Win rates on held-out prompts against the best so far and the base; a round that is worse is not promoted."""
    label = f"round_{number}"
    evaluated = evaluate_model(recipe, run, label, Teacher(policy), state.eval_prompts)
    state.evaluated.append(evaluated)
    rates = [
        win_rate(recipe, run, f"{label}/eval/win_rate_vs_{role}", evaluated, opponent, state.reward_model)
        for role, opponent in (("previous", state.best), ("base", state.base))
    ]
    state.compared += rates
    decision = run.stage(
        f"{label}/gate",
        "gate",
        {"win_rate": rates[0]},
        rule=recipe.gate,
        judge=recipe.evaluate.judge.kind,
        trained_against=is_trained_against(recipe, run, state.reward_model),
    )
    watch_drift(recipe, run, number, evaluated, state.base)
    if decision.metrics.get("promoted", True):  # a plan assumes promotion
        state.best = evaluated
        if policy not in state.policies:  # an average may have lost to an earlier policy
            state.policies.append(policy)
            state.names[policy] = label
