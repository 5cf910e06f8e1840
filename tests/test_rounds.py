"""The loop's wiring: which artifact goes into which stage, and which change makes which stage run again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from posttrain.comparisons import DriftError
from posttrain.core.files import sha256_file
from posttrain.recipe import Recipe, load_recipe
from posttrain.recipe_file import RecipeError
from posttrain.rounds import run_recipe
from posttrain.runner import Planner
from posttrain.store.artifacts import Artifact, ArtifactStore
from reward.errors import TooManyErrors
from reward.judges import pairwise, rubric

RECIPE = """\
name: wiring
num_rounds: 3
base: {{kind: folder, path: {model}}}
annotate:
  annotator: {{kind: verifier, function: "{folder}/mine.py:verify"}}
  prompts: {{kind: file, path: {folder}/annotate.jsonl}}
reward_model: {{kind: train, epochs: 1}}
prompts:
  seed_prompts: {{kind: file, path: {folder}/seeds.jsonl}}
  generators:
    - {{kind: self_instruct, num_prompts: 4}}
    - {{kind: magpie, num_prompts: 4}}
  files: [{{kind: file, path: {folder}/more.jsonl}}]
  num_prompts: 4
completions: {{num_completions: 2}}
train:
  sft: {{epochs: 1, global_batch_size: 4}}
  dpo: {{epochs: 1, beta: 0.1}}
evaluate:
  prompts: {{kind: file, path: {folder}/held_out.jsonl}}
  judge: {{kind: verifier, function: "{folder}/mine.py:verify"}}
students:
  - {{name: tiny, base: {{kind: practice}}, sft: {{epochs: 1}}, dpo: {{epochs: 1}}}}
"""


class Recording(Planner):
    """A planner that takes given metrics for finished stages and remembers every name."""

    def __init__(self, metrics: Mapping[str, Mapping[str, Any]], root: Path) -> None:
        super().__init__(ArtifactStore(root), None)
        self.metrics = metrics
        self.made: dict[str, Artifact] = {}
        self.inputs: dict[str, dict[str, Any]] = {}
        self.asked: dict[str, dict[str, Any]] = {}

    def stage(self, label: str, name: str, inputs=None, **config) -> Artifact:
        artifact = super().stage(label, name, inputs, **config)
        self.note(label, artifact)
        planned = next(row for row in self.stages if row["label"] == label)
        self.inputs[label], self.asked[label] = planned["inputs"], planned["asked"]
        if label in self.metrics:
            return Artifact(artifact.stage, artifact.address, artifact.path, {"metrics": self.metrics[label]})
        return artifact

    def alias(self, label: str, artifact: Artifact) -> None:
        self.note(label, artifact)

    def note(self, label: str, artifact: Artifact) -> None:
        """A name that stood for two artifacts would hide one of them from trace, verify and the report."""
        assert self.made.setdefault(label, artifact) == artifact, f"{label} names two artifacts"

    def labels(self, label: str, key: str) -> list[str]:
        """Return the first name of each artifact in an input."""
        names = {artifact: name for name, artifact in reversed(self.made.items())}
        value = self.inputs[label][key]
        return [names[item] for item in ([value] if isinstance(value, Artifact) else value)]


@pytest.fixture
def folder(tmp_path, tiny_model_dir):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "mine.py").write_text("def verify(prompt, completion, row):\n    return 1.0\n")
    for name in ("annotate", "seeds", "more", "held_out"):
        lines = [f'{{"prompt": "{name} {index}"}}\n' for index in range(6)]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder, model=tiny_model_dir))
    return folder


def unroll(folder: Path, *overrides: str, held: tuple[int, ...] = (), metrics=None) -> Recording:
    recipe: Recipe = load_recipe(folder / "recipe.yaml", overrides)
    decisions = {f"round_{n}/gate": {"promoted": n not in held} for n in range(1, recipe.num_rounds + 1)}
    run = Recording(decisions | (metrics or {}), folder / "root")
    run_recipe(recipe, run)
    return run


def changed(old: Recording, new: Recording) -> set[str]:
    assert set(old.asked) == set(new.asked)
    return {label for label in old.asked if old.made[label] != new.made[label]}


# ------------------------------------------------------------------------------------------- what goes where


def test_sft_starts_from_the_base_on_the_rows_of_all_rounds(folder):
    run = unroll(folder)
    assert run.labels("round_1/sft", "selected") == ["round_1/select"]
    assert run.labels("round_2/sft", "model") == ["base/model"]
    assert run.labels("round_2/sft", "selected") == ["round_1/select", "round_2/select"]
    assert run.labels("round_3/sft", "model") == ["base/model"]
    assert run.labels("round_3/sft", "selected") == ["round_1/select", "round_2/select", "round_3/select"]


def test_dpo_starts_from_its_rounds_sft_on_its_rounds_pairs(folder):
    run = unroll(folder)
    assert run.labels("round_2/dpo", "model") == ["round_2/sft"]
    assert run.labels("round_2/dpo", "selected") == ["round_2/select"]
    assert run.made["round_2/policy"] == run.made["round_2/dpo"]


def test_without_dpo_the_policy_is_the_sft_checkpoint(folder):
    run = unroll(folder, "train.dpo=null")
    assert "round_1/dpo" not in run.made
    assert run.made["round_1/policy"] == run.made["round_1/sft"]


def test_reward_model_sees_the_labels_of_all_rounds_and_scores_this_round(folder):
    run = unroll(folder)
    assert run.labels("round_2/reward_model", "model") == ["base/model"]
    assert run.labels("round_2/reward_model", "preferences") == ["round_1/annotate/labels", "round_2/annotate/labels"]
    assert run.labels("round_2/scores", "reward_model") == ["round_2/reward_model"]
    assert run.labels("round_2/scores", "completions") == ["round_2/completions/policy"]


def test_promoted_policy_answers_teaches_and_is_compared_in_the_next_round(folder):
    run = unroll(folder)
    assert run.labels("round_1/annotate/completions_1", "model") == ["base/model"]
    assert run.labels("round_2/annotate/completions_1", "model") == ["round_1/dpo"]
    assert run.labels("round_2/completions/policy", "model") == ["round_1/dpo"]
    assert run.labels("round_2/prompts/magpie_2", "model") == ["round_1/dpo"]
    assert run.labels("round_2/eval/win_rate_vs_previous", "b") == ["round_1/eval/scores"]
    assert run.labels("round_2/eval/win_rate_vs_base", "b") == ["base/eval/scores"]
    assert run.made["best"] == run.made["round_3/dpo"]


def test_held_policy_is_not_used_and_its_data_is(folder):
    run = unroll(folder, held=(1,))
    assert run.labels("round_2/annotate/completions_1", "model") == ["base/model"]
    assert run.labels("round_2/completions/policy", "model") == ["base/model"]
    assert run.labels("round_2/eval/win_rate_vs_previous", "b") == ["base/eval/scores"]
    assert run.labels("round_2/sft", "selected") == ["round_1/select", "round_2/select"]
    assert run.labels("round_3/annotate/completions_1", "model") == ["round_2/dpo"]


def test_no_round_promoted_leaves_the_base_as_best(folder):
    run = unroll(folder, held=(1, 2, 3))
    assert run.made["best"] == run.made["base/model"]
    assert run.labels("students/tiny/teacher/completions", "model") == ["base/model"]
    assert run.labels("students/tiny/eval/win_rate_vs_teacher", "b") == ["base/eval/scores"]


def test_annotation_samples_the_newest_promoted_policies_and_the_base_while_there_are_few(folder):
    run = unroll(folder, "annotate.num_policies=2", held=(2,))
    assert "round_1/annotate/completions_2" not in run.made
    assert run.labels("round_2/annotate/completions_1", "model") == ["round_1/dpo"]
    assert run.labels("round_2/annotate/completions_2", "model") == ["base/model"]
    assert run.labels("round_3/annotate/completions_1", "model") == ["round_1/dpo"]
    assert run.labels("round_3/annotate/completions_2", "model") == ["base/model"]


def test_prompts_of_earlier_rounds_are_known(folder):
    run = unroll(folder)
    known = ["seed_prompts", "round_1/prompts/clean", "round_2/prompts/clean"]
    assert run.labels("round_3/prompts/clean", "known") == known
    assert run.labels("round_3/prompts/self_instruct_1", "seeds") == ["seed_prompts"]
    assert run.labels("round_3/prompts/self_instruct_1", "known") == known[1:]
    written = ["round_3/prompts/self_instruct_1", "round_3/prompts/magpie_2", "round_3/prompts/file_1"]
    assert run.labels("round_3/prompts/clean", "written") == written


def test_evaluation_prompts_are_excluded_everywhere(folder):
    run = unroll(folder)
    assert run.labels("seed_prompts", "exclude") == ["eval_prompts"]
    for number in (1, 2, 3):
        assert run.labels(f"round_{number}/annotate/prompts", "exclude") == ["eval_prompts"]
        assert run.labels(f"round_{number}/prompts/clean", "held_out") == ["eval_prompts"]
        assert run.labels(f"round_{number}/completions/policy", "prompts") == [f"round_{number}/prompts/clean"]
    users = {label for label, inputs in run.inputs.items() if run.made["eval_prompts"] in inputs.get("prompts", [])}
    assert users == {label for label in run.inputs if label.endswith("/eval/completions")}


def test_file_prompts_of_two_rounds_are_disjoint_parts(folder):
    run = unroll(folder)
    for label in ("annotate/prompts", "prompts/file_1"):
        configs = [run.asked[f"round_{number}/{label}"]["config"] for number in (1, 2, 3)]
        assert [(config["part"], config["num_parts"]) for config in configs] == [(1, 3), (2, 3), (3, 3)]
        assert len({config["seed"] for config in configs}) == 1  # one shuffle, three parts of it


def test_a_teacher_of_its_own_writes_and_answers_where_the_recipe_says(folder):
    run = unroll(folder, "teacher={kind: practice, seed: 7}", "completions.engines=[teacher, policy]")
    assert run.labels("round_2/prompts/magpie_2", "model") == ["teacher"]
    assert run.labels("round_2/completions/teacher", "model") == ["teacher"]
    assert run.labels("round_2/completions/policy", "model") == ["round_1/dpo"]
    assert run.labels("round_2/scores", "completions") == ["round_2/completions/teacher", "round_2/completions/policy"]


def test_a_teacher_that_is_the_policy_answers_once(folder):
    run = unroll(folder, "teacher={kind: practice}", "base={kind: practice}", "completions.engines=[teacher, policy]")
    assert run.labels("round_1/scores", "completions") == ["round_1/completions/teacher"]
    assert run.labels("round_2/scores", "completions") == ["round_2/completions/teacher", "round_2/completions/policy"]


def test_student_learns_from_the_final_policy_and_prefers_among_its_own_samples(folder):
    run = unroll(folder)
    assert run.labels("students/tiny/teacher/completions", "model") == ["round_3/dpo"]
    clean = [f"round_{number}/prompts/clean" for number in (1, 2, 3)]
    assert run.labels("students/tiny/teacher/completions", "prompts") == clean
    assert run.labels("students/tiny/teacher/scores", "reward_model") == ["round_3/reward_model"]
    assert run.labels("students/tiny/sft", "model") == ["students/tiny/base"]
    assert run.labels("students/tiny/sft", "selected") == ["students/tiny/teacher/select"]
    assert run.labels("students/tiny/student/completions", "model") == ["students/tiny/sft"]
    assert run.labels("students/tiny/dpo", "model") == ["students/tiny/sft"]
    assert run.labels("students/tiny/dpo", "selected") == ["students/tiny/student/select"]
    assert run.labels("students/tiny/eval/win_rate_vs_own_base", "b") == ["students/tiny/own_base/eval/scores"]
    assert run.labels("students/tiny/eval/win_rate_vs_teacher", "b") == ["round_3/eval/scores"]


def rated(run: Recording) -> set[frozenset[str]]:
    """Return which models meet in the comparisons that the ratings stand on."""
    rates = [row for row in run.stages if row["artifact"] in run.inputs["ratings"]["win_rates"]]
    return {frozenset(row["asked"]["config"]["names"]) for row in rates}


def test_every_model_is_linked_to_the_base_by_comparisons_when_another_teacher_teaches(folder):
    changes = ["teacher={kind: practice, seed: 7}", "students.0.teacher=teacher", "evaluate.matrix=false"]
    run = unroll(folder, *changes, held=(3,))
    assert run.labels("students/tiny/eval/win_rate_vs_teacher", "b") == ["students/teacher/eval/scores"]
    assert {frozenset(("students/tiny", "teacher")), frozenset(("teacher", "round_2"))} <= rated(run)


def test_a_model_has_one_name_in_the_ratings(folder):
    changes = ["students.0.teacher=teacher", "teacher={kind: practice}", "base={kind: practice}"]
    run = unroll(folder, *changes, "evaluate.matrix=false")
    assert run.labels("students/tiny/eval/win_rate_vs_own_base", "b") == ["base/eval/scores"]
    assert run.labels("students/tiny/eval/win_rate_vs_teacher", "b") == ["base/eval/scores"]
    assert not any("own_base" in name or name == "students/teacher" for pair in rated(run) for name in pair)


def test_average_takes_the_newest_promoted_policies(folder):
    run = unroll(folder, "train.average.num_policies=2", "num_rounds=4", held=(2,))
    assert "round_1/average" not in run.made
    assert run.labels("round_2/average", "models") == ["round_1/dpo", "round_2/dpo"]
    assert run.labels("round_3/average", "models") == ["round_1/dpo", "round_3/dpo"]
    assert run.labels("round_4/average", "models") == ["round_3/average", "round_4/dpo"]
    assert run.made["round_3/policy"] == run.made["round_3/average"]


def test_an_average_is_compared_with_each_policy_in_it_over_the_base(folder):
    run = unroll(folder, "train.average.num_policies=2", "num_rounds=2")
    assert run.labels("round_2/average_choice", "singles") == [
        "round_1/eval/win_rate_vs_previous",  # over the base: not judged again
        "round_2/single_2/win_rate_vs_base",
    ]
    assert run.labels("round_2/average_choice", "average") == ["round_2/averaged_1/win_rate_vs_base"]
    assert run.labels("round_2/eval/win_rate_vs_base", "a") == ["round_2/averaged_1/eval/scores"]
    assert run.made["round_2/eval/win_rate_vs_base"] == run.made["round_2/averaged_1/win_rate_vs_base"]


@pytest.mark.parametrize(("best", "taken"), [(1, "round_2/dpo"), (0, "round_1/dpo")])
def test_an_average_that_lost_gives_way_to_the_best_single_policy(folder, best, taken):
    choice = {"round_2/average_choice": {"taken": "single", "best_single": best}}
    run = unroll(folder, "train.average.num_policies=2", metrics=choice)
    assert run.made["round_2/policy"] == run.made[taken]
    # A policy that came back is no second policy: round 3 averages and samples from two different ones.
    earlier = ["round_1/dpo", "round_2/dpo"] if best == 1 else ["round_1/dpo"]
    assert run.labels("round_3/average", "models") == [earlier[-1], "round_3/dpo"]
    assert run.labels("round_3/annotate/completions_1", "model") == [earlier[-1]]


def test_weighted_averages_take_the_last_shares(folder):
    shares = ["train.average={rule: weighted, num_policies: 3, weights: [0.5, 0.3, 0.2]}"]
    run = unroll(folder, *shares)
    # Round 2 has two policies: 0.3 and 0.2 of 0.5.
    assert run.asked["round_2/average"]["config"]["weights"] == pytest.approx([0.6, 0.4])
    assert run.asked["round_3/average"]["config"]["weights"] == [0.5, 0.3, 0.2]


def test_greedy_averages_add_the_best_first(folder):
    measured = {
        **{f"round_3/single_{n}/win_rate_vs_base": {"win_rate": r} for n, r in ((1, 0.5), (2, 0.75), (3, 0.625))},
        "round_3/averaged_1/win_rate_vs_base": {"win_rate": 0.7},  # of 2 and 3: worse than 2 alone
        "round_3/averaged_2/win_rate_vs_base": {"win_rate": 0.8},
    }
    run = unroll(folder, "train.average={rule: greedy, num_policies: 3}", metrics=measured)
    assert run.labels("round_3/average_1", "models") == ["round_2/average_1", "round_3/dpo"]
    assert run.labels("round_3/average_2", "models") == ["round_2/average_1", "round_1/dpo"]
    assert run.made["round_3/policy"] == run.made["round_3/average_2"] == run.made["round_3/average"]
    assert run.asked["round_3/average_choice"]["config"]["members"] == [1, 0]


def test_ratings_see_every_comparison_once(folder):
    run = unroll(folder, "evaluate.matrix=false", held=(1,))
    rates = run.inputs["ratings"]["win_rates"]
    assert len(rates) == len(set(rates))
    assert set(rates) == {artifact for label, artifact in run.made.items() if "/eval/win_rate_vs_" in label}


# ------------------------------------------------------------------------------------------- judges side by side

FROZEN = ["reward_model.refresh=once"]
OWN_JUDGE = ["evaluate.judge={kind: reward_model}", "gate.allow_judge_trained_against=true"]


def test_a_matrix_has_base_sft_checkpoints_policies_and_students(folder):
    run = unroll(folder, held=(2,))
    rounds = [name for number in (1, 2, 3) for name in (f"round_{number}/sft", f"round_{number}")]
    names = ["base", *rounds, "students/tiny"]
    assert run.asked["evaluation/verifier/matrix"]["config"]["names"] == names
    places = ["base"]
    places += [place for number in (1, 2, 3) for place in (f"round_{number}/sft_checkpoint", f"round_{number}")]
    places += ["students/tiny"]
    assert run.labels("evaluation/verifier/matrix", "completions") == [f"{place}/eval/completions" for place in places]
    assert run.labels("evaluation/verifier/matrix", "scored") == [f"{place}/eval/scores" for place in places]
    assert "evaluation/agreement" not in run.made  # one judge agrees with nobody


@pytest.mark.parametrize(("label", "place"), [
    ("evaluation/second/scores", "evaluate.judges.second"), ("evaluation/verifier/matrix", "evaluate.judge"),
])  # fmt: skip
def test_an_error_of_a_judge_names_its_place_in_the_recipe(folder, monkeypatch, label, place):
    made = Recording.stage

    def stage(self, asked, name, inputs=None, **config):
        if asked == label:
            raise TooManyErrors("failed on 2 rows", [{"score": 1.0}])
        return made(self, asked, name, inputs, **config)

    monkeypatch.setattr(Recording, "stage", stage)
    with pytest.raises(TooManyErrors, match=f"^{place}: failed on 2 rows$") as error:
        unroll(folder, f'evaluate.judges.second={{kind: verifier, function: "{folder}/mine.py:verify"}}')
    assert error.value.rows == [{"score": 1.0}]


def test_a_teacher_of_its_own_is_compared_and_sft_alone_is_no_second_model(folder):
    run = unroll(folder, "teacher={kind: practice, seed: 7}", "train.dpo=null", "students=[]", "num_rounds=1")
    assert run.asked["evaluation/verifier/matrix"]["config"]["names"] == ["base", "round_1", "teacher"]


def test_a_model_that_is_there_twice_is_compared_once(folder):
    choice = {"round_2/average_choice": {"taken": "single", "best_single": 0}}
    run = unroll(folder, "train.average.num_policies=2", "num_rounds=2", metrics=choice)
    assert run.made["round_2/policy"] == run.made["round_1/policy"]
    names = run.asked["evaluation/verifier/matrix"]["config"]["names"]
    assert names == ["base", "round_1/sft", "round_1", "round_2/sft", "students/tiny"]


def test_further_judges_score_all_answers_in_one_stage_each(folder, tiny_reward_model_dir):
    given = f"given={{kind: reward_model, model: {{kind: folder, path: {tiny_reward_model_dir}}}}}"
    own = "own={kind: reward_model}"
    run = unroll(folder, f"evaluate.judges.{own}", f"evaluate.judges.{given}")
    assert run.labels("evaluation/own/scores", "reward_model") == ["round_3/reward_model"]
    assert run.labels("evaluation/given/scores", "reward_model") == ["judges/given"]
    answers = run.labels("evaluation/verifier/matrix", "completions")
    assert run.labels("evaluation/own/scores", "completions") == answers
    matrices = ["evaluation/verifier/matrix", "evaluation/own/matrix", "evaluation/given/matrix"]
    assert run.labels("evaluation/agreement", "matrices") == matrices
    assert run.labels("round_3/gate", "win_rate") == ["round_3/eval/win_rate_vs_previous"]  # the gate hears one judge


def test_a_language_model_that_judged_in_the_rounds_judges_the_other_pairs(folder, tiny_model_dir):
    model = f"{{kind: folder, path: {tiny_model_dir}}}"
    further = f"evaluate.judges.second={{kind: llm, model: {model}}}"
    run = unroll(folder, f"evaluate.judge={{kind: llm, model: {model}}}", further, "evaluate.matrix_prompts=5")
    compared = {artifact for label, artifact in run.made.items() if "/eval/win_rate_vs_" in label}
    assert set(run.inputs["evaluation/llm/matrix"]["known"]) == compared
    assert run.inputs["evaluation/second/matrix"]["known"] == []
    assert run.asked["evaluation/llm/matrix"]["config"]["num_prompts"] == 5


def test_labels_run_their_matrix_and_the_agreement_alone(folder):
    labels = folder / "labels.jsonl"
    labels.write_text('{"prompt_id": "x", "a": "base", "b": "round_1", "preference": 1}\n')
    before = unroll(folder)
    after = unroll(folder, f"evaluate.judges.people={{kind: labels, path: {labels}}}")
    assert set(after.asked) - set(before.asked) == {"evaluation/people/matrix", "evaluation/agreement"}
    assert all(after.made[label] == before.made[label] for label in before.asked)
    labels.write_text('{"prompt_id": "x", "a": "base", "b": "round_1", "preference": 0}\n')
    again = unroll(folder, f"evaluate.judges.people={{kind: labels, path: {labels}}}")
    assert changed(after, again) == {"evaluation/people/matrix", "evaluation/agreement"}


def test_a_judges_prompt_is_in_the_address(folder, tiny_model_dir):
    template = folder / "rubric.txt"
    template.write_text("{prompt} {completion}")
    model = f"{{kind: folder, path: {tiny_model_dir}}}"
    rubric = f"evaluate.judges.rubric={{kind: rubric, template: {template}, model: {model}}}"
    before = unroll(folder, rubric)
    template.write_text("{prompt} {completion} now rate")
    again = changed(before, unroll(folder, rubric))
    assert again == {"evaluation/rubric/scores", "evaluation/rubric/matrix", "evaluation/agreement"}


def test_the_built_in_prompt_of_a_judge_is_in_the_address_too(folder, tiny_model_dir):
    model = f"{{kind: folder, path: {tiny_model_dir}}}"
    run = unroll(folder, f"evaluate.judges={{a: {{kind: llm, model: {model}}}, b: {{kind: rubric, model: {model}}}}}")
    assert run.asked["evaluation/a/matrix"]["config"]["content"] == sha256_file(pairwise.TEMPLATE)
    assert run.asked["evaluation/b/scores"]["config"]["content"] == sha256_file(rubric.TEMPLATE)


def test_a_gate_judged_by_what_trained_the_policy_is_refused_unless_the_recipe_allows_it(folder):
    with pytest.raises(RecipeError, match=r"own reward model.*gate\.allow_judge_trained_against"):
        unroll(folder, OWN_JUDGE[0])
    run = unroll(folder, *OWN_JUDGE)
    assert run.asked["round_1/gate"]["config"]["trained_against"] is True
    assert run.asked["round_1/gate"]["config"]["rule"]["allow_judge_trained_against"] is True
    assert unroll(folder).asked["round_1/gate"]["config"]["trained_against"] is False


def test_the_same_reward_model_under_another_path_is_refused_too(folder, tiny_reward_model_dir):
    copy = folder / "copy"
    shutil.copytree(tiny_reward_model_dir, copy)
    given = ["annotate=null", f"reward_model={{kind: given, model: {{kind: folder, path: {tiny_reward_model_dir}}}}}"]
    judge = f"evaluate.judge={{kind: reward_model, model: {{kind: folder, path: {copy}}}}}"
    with pytest.raises(RecipeError, match="holds the same model"):
        unroll(folder, *given, judge)
    with open(copy / "config.json", "a") as file:
        file.write(" ")
    assert "round_1/gate" in unroll(folder, *given, judge).made  # another model


def test_a_frozen_reward_model_is_trained_in_round_1_on_all_its_prompts(folder):
    run = unroll(folder, *FROZEN)
    assert [label for label in run.asked if "annotate" in label or label.endswith("/reward_model")] == [
        *("round_1/annotate/prompts", "round_1/annotate/completions_1", "round_1/annotate/labels"),
        "round_1/reward_model",
    ]
    assert run.asked["round_1/annotate/prompts"]["config"]["num_parts"] == 1
    for number in (1, 2, 3):
        assert run.labels(f"round_{number}/scores", "reward_model") == ["round_1/reward_model"]
    assert unroll(folder).made["round_1/reward_model"] != run.made["round_1/reward_model"]  # a third of the prompts


def test_drift_compares_each_rounds_policy_with_the_base(folder):
    run = unroll(folder, held=(1,))
    assert run.labels("round_2/drift", "policy") == ["round_2/dpo"]
    assert run.labels("round_2/drift", "base") == ["base/model"]
    assert run.labels("round_2/drift", "base_answers") == ["base/eval/completions"]
    assert "round_2/drift" not in unroll(folder, "evaluate.drift=null").made


def test_an_alarm_stops_the_run_only_where_the_recipe_says_so(folder):
    alarm = {"measure": "refusal_share", "alarm": True, "reason": "0.5 of the answers refuse"}
    metrics = {"round_2/drift": {"drift": [alarm]}}
    assert "round_3/gate" in unroll(folder, metrics=metrics).made
    with pytest.raises(DriftError, match=r"round_2 has drifted: refusal_share: 0\.5.*on_alarm"):
        unroll(folder, "evaluate.drift.on_alarm=stop", metrics=metrics)


def test_without_a_matrix_the_rounds_are_as_they_were(folder):
    run = unroll(folder, "evaluate.matrix=false")
    assert not [label for label in run.asked if label.startswith("evaluation/") or "sft_checkpoint" in label]
    assert "ratings" in run.made
    assert "ratings" not in unroll(folder).made  # the matrix rates every pair: one rating of a model, not two


def test_one_number_of_resamples_serves_ratings_and_agreement(folder):
    own = "evaluate.judges.own={kind: reward_model}"
    asked = unroll(folder, own, "evaluate.num_bootstrap=77").asked
    places = [label for label, row in asked.items() if "num_bootstrap" in row["config"]]
    assert places == ["evaluation/verifier/matrix", "evaluation/own/matrix", "evaluation/agreement"]
    assert all(asked[label]["config"]["num_bootstrap"] == 77 for label in places)


@pytest.mark.parametrize(
    "override",
    [
        *("num_rounds=3", "evaluate.judges.own={kind: reward_model}", "teacher={kind: practice}"),
        *("train.average.num_policies=2", "train.average={rule: greedy, num_policies: 3}"),
    ],
)
def test_no_name_lies_inside_another(folder, override):
    """A name is a link to an artifact's folder: a name below it would write into that artifact."""
    names = set(unroll(folder, override, held=(2,)).made)
    inside = [(name, parent) for name in names for parent in map(str, Path(name).parents) if parent in names]
    assert inside == []


# ------------------------------------------------------------------------------------------- what runs again


def test_dpo_beta_reruns_dpo_and_what_comes_after(folder):
    again = changed(unroll(folder), unroll(folder, "train.dpo.beta=0.05"))
    first = {label for label in again if label.startswith("round_1/")}
    assert first == {
        "round_1/dpo",
        "round_1/eval/completions",
        "round_1/eval/scores",
        "round_1/eval/win_rate_vs_previous",
        "round_1/eval/win_rate_vs_base",
        "round_1/gate",
        "round_1/drift",
    }
    assert {"round_2/annotate/completions_1", "round_2/sft", "students/tiny/sft", "evaluation/verifier/matrix"} <= again
    assert not {"eval_prompts", "seed_prompts", "base/eval/completions", "round_2/annotate/prompts"} & again


def test_how_a_run_is_carried_out_changes_no_address(folder):
    execution = ["execution.device=cuda", "execution.workers=4", "execution.max_batch_tokens=99"]
    training = ["train.sft.device_batch_size=2", "train.dpo.gradient_checkpointing=true"]
    assert changed(unroll(folder), unroll(folder, *execution, *training)) == set()


def test_limits_of_a_verifier_change_what_it_scores_and_its_error_rate_does_not(folder):
    """A time or memory limit decides which answers have a score; the share of errors only whether the stage ends."""
    before = unroll(folder)
    assert changed(before, unroll(folder, "evaluate.judge.max_error_rate=0.3")) == set()
    for override in ("evaluate.judge.timeout_s=60", "evaluate.judge.memory_mb=64"):
        again = changed(before, unroll(folder, override))
        assert {"base/eval/scores", "round_1/gold", "round_1/gate"} <= again and "round_1/sft" not in again
    again = changed(before, unroll(folder, "annotate.annotator.timeout_s=60"))
    assert {"round_1/annotate/labels", "round_1/reward_model"} <= again
    again = changed(before, unroll(folder, "evaluate.gold_max_error_rate=0.1"))
    assert again == {"round_1/gold", "round_2/gold", "round_3/gold"}


def test_the_same_content_under_other_paths_changes_no_address(folder, tiny_model_dir, tmp_path):
    before = unroll(folder)
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    shutil.copytree(tiny_model_dir, moved / "model")
    (moved / "recipe.yaml").write_text(RECIPE.format(folder=moved, model=moved / "model"))
    after = unroll(moved)
    assert {label: artifact.address for label, artifact in after.made.items()} == {
        label: artifact.address for label, artifact in before.made.items()
    }


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("annotate.jsonl", "round_1/annotate/prompts"),
        ("more.jsonl", "round_1/prompts/file_1"),
        ("mine.py", "round_1/annotate/labels"),
    ],
)
def test_other_content_under_the_same_path_runs_again(folder, name, first):
    before = unroll(folder)
    with open(folder / name, "a") as file:
        file.write('{"prompt": "one more"}\n' if name.endswith(".jsonl") else "# changed\n")
    again = changed(before, unroll(folder))
    assert first in again
    assert "seed_prompts" not in again


def test_seed_runs_everything_again(folder):
    # A practice model has a seed of its own: it is one and the same model in runs with other seeds.
    assert set(unroll(folder).asked) - changed(unroll(folder), unroll(folder, "seed=1")) == {"students/tiny/base"}


def test_template_date_belongs_to_every_question(folder):
    recipe = load_recipe(folder / "recipe.yaml", ["template_date=2024-07-26"])
    dated = Planner(ArtifactStore(folder / "root"), recipe.template_date)
    run_recipe(recipe, dated)
    plain = unroll(folder)
    assert not {row["address"] for row in dated.stages} & {row["address"] for row in plain.stages}
