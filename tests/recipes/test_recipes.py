"""Every recipe loads and plans, and its most important numbers are pinned here by hand."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain.commands.loop import plan_stages
from posttrain.recipe import Recipe, load_recipe
from posttrain.recipe_file import read_data

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
NAMES = [path.stem for path in RECIPES]
MAX_SECONDS = 2.0


def test_the_six_recipes_of_the_project_are_found():
    assert {"quickstart", "frozen_reward", "local", "llama31_8b", "llama31_70b", "llama31_405b_students"} <= set(NAMES)


def missing_files(value: Any, place: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (dotted place, kind, path) of every folder and file that a recipe names."""
    if isinstance(value, dict):
        if value.get("kind") in ("folder", "file") and "path" in value:
            yield f"{place}.path", value["kind"], value["path"]
        for key, item in value.items():
            yield from missing_files(item, f"{place}.{key}" if place else str(key))
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from missing_files(item, f"{place}.{index}")


def stand_ins(recipe: Path, folder: Path) -> list[str]:
    """Make a tiny file or model folder for everything that the recipe names; return the overrides that point there."""
    folder.mkdir(exist_ok=True)
    overrides = []
    for place, kind, path in missing_files(read_data(recipe)):
        stand_in = folder / Path(path).name
        if kind == "folder":
            stand_in.mkdir(exist_ok=True)
            (stand_in / "config.json").write_text(json.dumps({"stands_for": Path(path).name}))
            (stand_in / "model.safetensors").write_bytes(b"no weights are read by a plan")
        else:
            stand_in.write_text("".join(json.dumps({"prompt": f"{stand_in.name} {n}"}) + "\n" for n in range(20)))
        overrides.append(f"{place}={stand_in}")
    return overrides


def load(name: str, folder: Path) -> Recipe:
    path = ROOT / "recipes" / f"{name}.yaml"
    return load_recipe(path, stand_ins(path, folder))


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_named_like_its_file(name: str):
    assert load_recipe(ROOT / "recipes" / f"{name}.yaml").name == name


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_plans_all_its_rounds_and_students_in_time(name: str, tmp_path: Path):
    recipe = load(name, tmp_path)
    started = time.perf_counter()
    labels = [stage["label"] for stage in plan_stages(recipe, tmp_path)]
    assert time.perf_counter() - started < MAX_SECONDS
    for number in range(1, recipe.num_rounds + 1):
        for stage in ("scores", "select", "sft", "dpo", "gate"):
            assert f"round_{number}/{stage}" in labels
    for student in recipe.students:
        assert f"students/{student.name}/sft" in labels
        assert f"students/{student.name}/eval/win_rate_vs_own_base" in labels
    assert "ratings" not in labels  # every pair is rated by its judge's matrix
    matrix = f"evaluation/{recipe.evaluate.judge.kind}/matrix"
    assert labels[-1] == ("evaluation/agreement" if recipe.evaluate.judges else matrix)


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_of_nothing_done_runs_every_distinct_stage_once(name: str, tmp_path: Path):
    stages = plan_stages(load(name, tmp_path), tmp_path)
    runs = [(stage["stage"], stage["address"]) for stage in stages if stage["status"] == "run"]
    assert len(runs) == len(set(runs)) > 20
    assert set(runs) == {(stage["stage"], stage["address"]) for stage in stages}


def test_loading_and_planning_loads_no_heavy_library(tmp_path: Path):
    overrides = stand_ins(ROOT / "recipes" / "llama31_405b_students.yaml", tmp_path)
    program = (
        "import sys; from pathlib import Path\n"
        "from posttrain.commands.loop import plan_stages; from posttrain.recipe import load_recipe\n"
        "stages = plan_stages(load_recipe(sys.argv[1], sys.argv[3:]), Path(sys.argv[2]))\n"
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'ray', 'vllm', 'pandas'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy or not stages else 0)\n"
    )
    recipe = str(ROOT / "recipes" / "llama31_405b_students.yaml")
    command = [sys.executable, "-c", program, recipe, str(tmp_path), *overrides]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_8b_recipe_has_the_published_numbers(tmp_path: Path):
    recipe = load("llama31_8b", tmp_path)
    assert recipe.num_rounds == 6  # Llama 3, 4.1.6
    assert 10 <= recipe.completions.num_completions <= 30  # Llama 3, 4.2.2
    dpo, sft, reward_model = recipe.train.dpo, recipe.train.sft, recipe.reward_model
    assert (dpo.beta, dpo.nll_weight, dpo.mask_format_tokens, dpo.loss) == (0.1, 0.2, True, "sigmoid")  # Llama 3, 4.1.4
    assert (dpo.learning_rate, dpo.global_batch_size, dpo.warmup_ratio, dpo.epochs) == (5e-7, 128, 0.1, 1)  # Tülu 3
    assert (sft.learning_rate, sft.global_batch_size, sft.warmup_ratio, sft.epochs) == (5e-6, 128, 0.03, 2)  # Tülu 3
    assert (reward_model.learning_rate, reward_model.global_batch_size, reward_model.epochs) == (2e-6, 512, 1)  # RF
    assert reward_model.margin is False  # Llama 3, 4.1.2
    assert recipe.annotate.min_strength == "better"  # Llama 3, 4.2.1
    assert recipe.prompts.num_prompts == 20_000  # RLHFlow


def test_the_70b_recipe_has_the_published_numbers(tmp_path: Path):
    recipe = load("llama31_70b", tmp_path)
    assert (recipe.num_rounds, recipe.teacher.kind, recipe.completions.engines) == (6, "policy", ("policy",))
    assert 10 <= recipe.completions.num_completions <= 30
    assert (recipe.train.sft.learning_rate, recipe.train.dpo.learning_rate) == (2e-6, 2e-7)  # Tülu 3, 70B
    assert (recipe.train.dpo.beta, recipe.train.dpo.nll_weight) == (0.1, 0.2)
    assert recipe.reward_model.learning_rate == 5e-6  # Llama 2, 70B
    assert [(student.name, student.teacher) for student in recipe.students] == [("student_8b", "policy")]
    for name in ("llama31_70b", "llama31_405b_students"):  # 280 GB of float32 stand on no single device
        drift = load(name, tmp_path).evaluate.drift
        assert (drift.max_kl_from_base, drift.max_refusal_share) == (None, 0.1)


def test_the_students_of_the_405b_learn_from_the_endpoint(tmp_path: Path):
    recipe = load("llama31_405b_students", tmp_path)
    assert (recipe.teacher.kind, recipe.teacher.model) == ("endpoint", "meta-llama/Llama-3.1-405B-Instruct-FP8")
    assert [(s.name, s.teacher, s.sft.learning_rate, s.dpo.learning_rate) for s in recipe.students] == [
        ("student_70b", "teacher", 2e-6, 2e-7),
        ("student_8b", "teacher", 5e-6, 5e-7),
    ]
    assert all((s.dpo.beta, s.dpo.nll_weight) == (0.1, 0.2) and 10 <= s.num_completions <= 30 for s in recipe.students)
    sampled = {
        stage["label"]: stage["config"]["endpoint"]
        for stage in plan_stages(recipe, tmp_path)
        if stage["label"].startswith("students/") and stage["label"].endswith("/teacher/completions")
    }
    assert len(sampled) == 2 and all(endpoint == recipe.teacher for endpoint in sampled.values())


def test_the_local_recipe_is_all_placeholders_beside_it(tmp_path: Path):
    paths = [path for _, _, path in missing_files(read_data(ROOT / "recipes" / "local.yaml"))]
    assert len(paths) >= 4
    assert {Path(path).parent for path in paths} == {ROOT / "recipes" / "my_models", ROOT / "recipes" / "my_data"}
    recipe = load("local", tmp_path)
    assert (recipe.train.dpo.beta, recipe.train.dpo.nll_weight, recipe.completions.num_completions) == (0.1, 0.2, 10)
    assert recipe.reward_model.kind == "given" and recipe.annotate is None


def test_the_local_recipe_with_rows_that_people_ranked_plans_too(tmp_path: Path):
    path = ROOT / "recipes" / "local.yaml"
    for number in (1, 2):
        (tmp_path / f"preferences_{number}.jsonl").write_text(f'{{"round": {number}}}\n')
    overrides = [item for item in stand_ins(path, tmp_path) if not item.startswith("reward_model")]
    annotator = f"{{kind: file, path: '{tmp_path}/preferences_{{round}}.jsonl'}}"
    overrides += [
        f"annotate={{annotator: {annotator}}}",
        "reward_model={kind: train, learning_rate: 2.0e-6, epochs: 1}",
    ]
    labels = [stage["label"] for stage in plan_stages(load_recipe(path, overrides), tmp_path)]
    assert [label for label in labels if "annotate" in label] == ["round_1/annotate/labels", "round_2/annotate/labels"]


def test_the_quickstart_downloads_nothing_and_has_three_rounds_and_two_students():
    recipe = load_recipe(ROOT / "recipes" / "quickstart.yaml")
    assert recipe.num_rounds >= 3 and len(recipe.students) == 2
    assert {recipe.base.kind, *(student.base.kind for student in recipe.students)} == {"practice"}
    assert (recipe.train.dpo.nll_weight, recipe.evaluate.judge.kind) == (0.2, "verifier")
    assert (recipe.gate.rule, recipe.gate.min_win_rate) == ("lower_bound", 0.5)
    assert {name: (judge.kind, judge.model) for name, judge in recipe.evaluate.judges.items()} == {
        "last_reward_model": ("reward_model", None)  # trained against, beside the gold verifier
    }


def test_no_gate_of_ours_hears_the_reward_model_that_it_trained_against_unless_it_says_so(tmp_path: Path):
    allowed = {name for name in NAMES if load(name, tmp_path / name).gate.allow_judge_trained_against}
    assert allowed == {"local"}
