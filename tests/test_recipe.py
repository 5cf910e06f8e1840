"""Recipes: every fault at once, before a model is loaded, in one message."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.cli import main
from posttrain.config import DPOConfig
from posttrain.functions import function_file
from posttrain.preflight import load_checked_recipe
from posttrain.recipe import load_recipe
from posttrain.recipe_file import RecipeError
from posttrain.settings import read_settings
from posttrain.sources import hub_models

RECIPES = Path(__file__).parent.parent / "recipes"
SMALL = """\
name: small
num_rounds: 2
base: {kind: practice}
annotate:
  annotator: {kind: verifier, function: "posttrain.practice.world:verify"}
  prompts: {kind: practice, num_prompts: 8}
reward_model: {kind: train, epochs: 1}
prompts:
  seed_prompts: {kind: practice, num_prompts: 4}
  generators:
    - {kind: magpie, num_prompts: 4}
  num_prompts: 4
completions: {num_completions: 2}
train:
  sft: {epochs: 1}
  dpo: {epochs: 1, learning_rate: 5e-7}
evaluate:
  prompts: {kind: practice, num_prompts: 4}
  judge: {kind: verifier, function: "posttrain.practice.world:verify"}
students:
  - {name: tiny, base: {kind: practice}, sft: {epochs: 1}}
"""


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def faults(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_checked_recipe(path, overrides)
    return str(caught.value)


# ------------------------------------------------------------------------------------------- what is read


def test_number_without_a_point_is_a_number(recipe_file):
    assert load_recipe(recipe_file).train.dpo.learning_rate == 5e-7
    assert load_recipe(recipe_file, ["train.sft.learning_rate=2e-6"]).train.sft.learning_rate == 2e-6


def test_truth_values_are_read_where_they_are_meant(recipe_file):
    assert load_recipe(recipe_file, ["train.dpo.mask_format_tokens=no"]).train.dpo.mask_format_tokens is False
    assert load_recipe(recipe_file, ["train.dpo.mask_format_tokens=true"]).train.dpo.mask_format_tokens is True


def test_truth_value_is_no_number(recipe_file):
    message = faults(recipe_file, "num_rounds=true", "train.sft.epochs=yes", "students.0.name=true")
    assert "num_rounds: Input should be a valid integer" in message and "'true'" in message
    assert "train.sft.epochs: Input should be a valid number" in message
    assert "students.0.name: Input should be a valid string" in message
    assert message.startswith(f"{recipe_file} has 3 faults:")


def test_date_is_text(recipe_file):
    recipe_file.write_text(SMALL + "template_date: 2024-07-26\n")
    assert load_recipe(recipe_file).template_date == "2024-07-26"
    assert load_recipe(recipe_file, ["template_date=2024-08-01"]).template_date == "2024-08-01"


def test_overrides_reach_list_items_sections_that_are_new_and_null(recipe_file):
    recipe = load_recipe(
        recipe_file,
        [
            "students.0.num_completions=7",
            "train.sft.lora.rank=4",
            "train.average.num_policies=3",
            "train.dpo=null",
            "select.min_score=-0.5",
            "prompts.generators.0={kind: magpie, num_prompts: 3}",
        ],
    )
    assert recipe.students[0].num_completions == 7
    assert recipe.train.sft.lora.rank == 4
    assert recipe.train.average.num_policies == 3
    assert recipe.train.dpo is None
    assert recipe.select.min_score == -0.5
    assert recipe.prompts.generators[0].num_prompts == 3


def test_paths_are_relative_to_the_recipe_and_those_of_overrides_to_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    path = tmp_path / "recipes" / "small.yaml"
    path.write_text(SMALL.replace("base: {kind: practice}\nann", "base: {kind: folder, path: models/base}\nann"))
    monkeypatch.chdir(tmp_path)
    assert load_recipe("recipes/small.yaml").base.path == str(tmp_path / "recipes" / "models" / "base")
    assert load_recipe(path, ["base.path=other"]).base.path == str(tmp_path / "other")


def test_a_servers_local_copy_is_relative_to_the_recipe_and_has_to_be_a_model(tmp_path):
    path = tmp_path / "small.yaml"
    served = 'teacher: {kind: endpoint, base_url: "http://127.0.0.1:1/v1", model: m, revision: r, local_copy: copy}'
    path.write_text(SMALL.replace("base: {kind: practice}\nann", f"base: {{kind: practice}}\n{served}\nann"))
    with pytest.raises(RecipeError, match=rf"teacher\.local_copy: {tmp_path / 'copy'}: no such folder"):
        load_checked_recipe(path)


# ------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("num_round=3", "num_round: unknown key; did you mean 'num_rounds'?"),
        ("trian.dpo.beta=0.1", "trian: unknown key; did you mean 'train'?"),
        ("train.dpo.betta=0.1", "train.dpo.betta: unknown key; did you mean 'beta'?"),
        ("train.sft.lora.rnak=4", "train.sft.lora.rnak: unknown key; did you mean 'rank'?"),
        ("annotate.annotator.functoin=x", "annotate.annotator.functoin: unknown key; did you mean 'function'?"),
        ("prompts.cleaning.max_token=9", "prompts.cleaning.max_token: unknown key; did you mean 'max_tokens'?"),
        ("prompts.generators.0.num_prompt=9", "generators.0.num_prompt: unknown key; did you mean 'num_prompts'?"),
        ("students.0.base.num_layer=2", "students.0.base.num_layer: unknown key; did you mean 'num_layers'?"),
        ("gate.colour=red", "gate.colour: unknown key; see docs/recipes.md"),
        ("train.dpo.beta=much", "train.dpo.beta: Input should be a valid number"),
        ("train.dpo.beta=", "train.dpo.beta: Input should be a valid number (got None)"),
        ("train.sft=[1]", "train.sft: Input should be a valid dictionary"),
        ("completions.num_completions=0", "completions.num_completions: Input should be greater than 0 (got 0)"),
        ("completions.num_completions=1.5", "completions.num_completions: Input should be a valid integer"),
        ("train.sft.learning_rate=1e400", "train.sft.learning_rate: Input should be a finite number (got '1e400')"),
        ("completions.temperature=.inf", "completions.temperature: Input should be a finite number (got inf)"),
        ("train.sft.max_steps=4", "train.sft: give exactly one of epochs and max_steps"),
        ("base.kind=foldr", "base"),
        ("execution.kind=ray", "execution: kind ray needs an address: auto"),
        ("execution.sharding=fsdp2", "execution: sharding fsdp2 divides weights among processes"),
        ("train.average.rule=weighted", "train.average: weights belong to rule weighted"),
        ("execution.address=head:6379", "execution: address 'head:6379' belongs to kind ray; set kind: ray"),
        ("select.rule=best_of_n", "select.rule: unknown rule 'best_of_n'; there are: best_of_k"),
        ("prompts.generators.0={kind: self_instruct, num_prompts: 4, template: mine}", "no template 'mine'"),
        ("evaluate.judge.function=posttrain.practice.world:verfy", "has no function 'verfy'; did you mean 'verify'?"),
        ("annotate.annotator.function=:verify", "annotate.annotator.function: ':verify': there is no file"),
        ("annotate.annotator.function=nowhere.py:verify", "nowhere.py; write FILE.py:FUNCTION"),
        ("annotate=null", "reward_model.kind train needs an annotate section"),
        ("prompts.generators=[]", "prompts has neither generators nor files"),
        ("students.0.name=base", "students are called base"),
        ("evaluate.drift.languages=[en, xx]", "evaluate.drift.languages: languages xx are not known; there are: "),
        ("evaluate.drift={min_mean_length_ratio: 3}", "evaluate.drift: min_mean_length_ratio 3.0 is above max_mean"),
        ("evaluate.drift.languages=[en]", "evaluate.drift.languages: ['en']: expected two languages or more"),
    ],
)
def test_a_fault_names_its_place_and_the_remedy(recipe_file, override, expected):
    message = faults(recipe_file, override)
    assert expected in message
    assert message.startswith(f"{recipe_file} has 1 fault:")


def test_what_a_machine_cannot_do_is_said_before_a_model_is_loaded(recipe_file, monkeypatch):
    monkeypatch.setattr("posttrain.train.limits.find_spec", lambda name: None)
    message = faults(recipe_file, "train.sft.lora.load_in_4bit=true", "execution.device=cpu", "base.kind=foldr")
    assert "has 3 faults" in message
    assert "train.sft: lora.load_in_4bit needs bitsandbytes, which is not installed" in message
    assert "train.sft: lora.load_in_4bit needs an NVIDIA GPU, and execution.device cpu gives none" in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.dpo.beta", "is not key=value"),
        ("=3", "is not key=value"),
        ("students.3.name=x", "'3' is no position in a list of 1"),
        ("students.tiny.name=x", "'tiny' is no position in a list of 1"),
        ("name.x=1", "'name' is the value 'small', not a section"),
        ("seed=[1", "the value is not YAML"),
    ],
)
def test_override_that_cannot_be_applied(recipe_file, override, expected):
    assert expected in faults(recipe_file, override)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SMALL + "seed: 1\nseed: 2\n", "key 'seed' is given twice (line 23)"),
        (SMALL.replace("sft: {epochs: 1}\n  dpo", "sft: {epochs: 1, epochs: 2}\n  dpo"), "key 'epochs' is given twice"),
        (SMALL + "1: 2\n", "key 1 is no text (line 22)"),
        (SMALL + "? [a, b]\n: 2\n", "is no text (line 22)"),
        (SMALL + "seed: [\n", "is not YAML"),
        ("", "holds NoneType, expected a mapping"),
        ("- a\n", "holds list, expected a mapping"),
    ],
)
def test_file_that_is_no_recipe(tmp_path, text, expected):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    assert expected in faults(path)


def test_missing_recipe_names_one_like_it(recipe_file):
    assert f"did you mean {recipe_file}?" in faults(recipe_file.with_name("smal.yaml"))


def test_function_is_found_however_it_is_defined(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from json import loads as parse\nif True:\n    def verify(p, c, r): return 1.0\ncheck = verify\n")
    for name in ("parse", "verify", "check"):
        assert function_file(f"{path}:{name}") == path
    path.write_text("def verify(:\n")
    with pytest.raises(ValueError, match=r"is not Python: invalid syntax .mine.py, line 1"):
        function_file(f"{path}:verify")


# ------------------------------------------------------------------- what would else come out after all rounds


def test_labels_of_a_judge_name_models_that_the_recipe_makes(recipe_file, tmp_path):
    labels = tmp_path / "labels.jsonl"
    names = [{"a": "round_2/sft", "b": "students/tiny"}, {"a": "round_3", "b": "base"}, {"a": "base", "b": "base"}, {}]
    rows = [{"prompt_id": "p", "preference": 1, **named} for named in names]
    labels.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    message = faults(recipe_file, f"evaluate.judges.people={{kind: labels, path: {labels}}}")
    assert f"evaluate.judges.people.path: {labels}: 3 faults" in message
    unknown = "line 2: this run has no model called round_3; expected two of base, "
    for part in (unknown, "line 3: a and b are both base", "line 4: it has no a and b"):
        assert part in message
    assert "\n    - line 2: " in message  # further in than the fault that holds the list


@pytest.mark.parametrize(
    ("where", "kind", "lacking"),
    [
        ("evaluate.judge", "llm", "{completion_a}, {completion_b}"),
        ("evaluate.judge", "rubric", "{completion}"),
        ("annotate.annotator", "judge", "{completion_a}, {completion_b}"),
    ],
)
def test_a_judges_template_has_its_places_whatever_its_name_ends_in(recipe_file, tiny_model_dir, where, kind, lacking):
    (recipe_file.parent / "ask.prompt").write_text("{prompt}, which?")
    section, old = where.rpartition(".")[2], '{kind: verifier, function: "posttrain.practice.world:verify"}'
    judge = f"{{kind: {kind}, model: {{kind: folder, path: {tiny_model_dir}}}, template: ask.prompt}}"
    text = SMALL.replace(f"{section}: {old}", f"{section}: {judge}")
    recipe_file.write_text(text)  # and the path is relative to the recipe, not to where the command runs
    template = recipe_file.parent / "ask.prompt"
    assert f"{where}.template: judge template {template} lacks {lacking}" in faults(recipe_file)
    template.unlink()
    assert f"{where}.template: judge template {template} does not exist" in faults(recipe_file)


# ------------------------------------------------------------------------------------------- everything at once


@pytest.fixture
def faulty(tmp_path, tiny_model_dir):
    """A recipe with a fault of every kind, and the lines that must be in its one message."""
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    plain = tmp_path / "no_template"
    shutil.copytree(tiny_model_dir, plain)
    (plain / "chat_template.jinja").unlink()
    good = [json.dumps({"prompt": f"say {word}"}) for word in ("one", "two", "three")]
    long = json.dumps({"prompt": "red " * 300, "id": "long"})
    lines = [good[0], '{"prompt": ', good[1], '{"prompt": " "}', long]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "seeds.jsonl").write_text("\n".join(good) + "\n")
    path = tmp_path / "faulty.yaml"
    path.write_text(f"""\
name: faulty
num_rounds: many
base: {{kind: folder, path: {model}}}
teacher: {{kind: folder, path: missing}}
annotate:
  annotator: {{kind: verifier, function: "posttrain.practice.world:verify"}}
  prompts: {{kind: file, path: prompts.jsonl}}
reward_model: {{kind: train, epochs: 1, learning_rat: 1e-5}}
prompts:
  seed_prompts: {{kind: file, path: seeds.jsonl, num_prompts: 50}}
  generators: [{{kind: magpie, num_prompts: 4}}]
  num_prompts: 4
completions: {{num_completions: 2}}
train:
  sft: {{epochs: 1}}
evaluate:
  prompts: {{kind: practice, num_prompts: 4}}
  judge: {{kind: verifier, function: "posttrain.practice.world:verify"}}
students:
  - {{name: tiny, base: {{kind: folder, path: {plain}}}, sft: {{epochs: 1}}}}
""")
    return path, [
        "num_rounds: Input should be a valid integer",
        "(got 'many')",
        "reward_model.learning_rat: unknown key; did you mean 'learning_rate'?",
        f"teacher.path: {tmp_path / 'missing'}: no such folder",
        f"students.0.base.path: {plain} is no usable model folder",
        "no chat template",
        f"{tmp_path / 'prompts.jsonl'}:2: ",
        f"{tmp_path / 'prompts.jsonl'}:4: field 'prompt[0].content': empty",
        f"{tmp_path / 'prompts.jsonl'}:5: prompt long has 300 tokens, more than the base's context of 256",
        f"seed_prompts.num_prompts: the recipe asks for 50 prompts, {tmp_path / 'seeds.jsonl'} has 3 usable ones",
    ]


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_all_faults_stand_in_one_message(faulty, tmp_path, capsys, verb):
    path, expected = faulty
    root = tmp_path / "root"
    assert main([verb, str(path), "--root", str(root)]) == 1
    message = capsys.readouterr().err
    assert [line for line in expected if line not in message] == []
    assert "Traceback" not in message
    assert f"posttrain {verb}: {path} has 8 faults:" in message
    assert not root.exists()


def test_faults_are_found_without_a_traceback_and_without_torch(faulty, tmp_path):
    path, _ = faulty
    program = (
        "import sys\nfrom posttrain.cli import main\n"
        f"code = main(['run', {str(path)!r}, '--root', {str(tmp_path / 'root')!r}])\n"
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'ray', 'vllm', 'pandas'} & set(sys.modules)\n"
        "print(sorted(heavy))\nsys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (1, "[]\n")
    assert "Traceback" not in done.stderr


def test_labels_of_pairs_are_checked_before_a_run_with_the_other_faults(recipe_file, tmp_path):
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"prompt_id": "x", "a": "base", "b": "round_1", "preference": 2}\n')
    judges = "evaluate.judges={people: {kind: labels, path: %s}, others: {kind: labels, path: %s/none.jsonl}}"
    message = faults(recipe_file, judges % (labels, tmp_path), "gate.min_win_rate=7")
    assert "3 faults" in message and "gate.min_win_rate" in message
    assert "evaluate.judges.people.path" in message and "line 1: preference is 2" in message
    assert "evaluate.judges.others.path" in message and "none.jsonl" in message


def test_judges_without_a_matrix_would_judge_nothing(recipe_file):
    judges = "evaluate.judges={own: {kind: reward_model}}"
    assert "own would judge nothing" in faults(recipe_file, judges, "evaluate.matrix=false")


def test_a_judges_hub_model_is_fetched_with_the_others(recipe_file):
    model = f"{{kind: hub, repo: some/judge, revision: {'a' * 40}}}"
    recipe = load_recipe(recipe_file, [f"evaluate.judges={{second: {{kind: llm, model: {model}}}}}"])
    assert [found.repo for found in hub_models(recipe)] == ["some/judge"]


def test_the_main_judges_name_is_taken(recipe_file):
    judges = "evaluate.judges={verifier: {kind: reward_model}}"
    assert "'verifier' is the name of the main judge" in faults(recipe_file, judges)


def test_label_files_are_checked_line_by_line_for_every_round(recipe_file, tmp_path):
    row = {"prompt": [{"role": "user", "content": "say one"}], "chosen": [{"role": "assistant", "content": "one"}]}
    rows = [row | {"rejected": [{"role": "assistant", "content": "two"}]}, row]
    (tmp_path / "labels_1.jsonl").write_text("".join(json.dumps(item) + "\n" for item in rows))
    message = faults(recipe_file, f"annotate.annotator={{kind: file, path: '{tmp_path}/labels_{{round}}.jsonl'}}")
    assert "line 2: no field 'rejected'" in message
    assert "labels_2.jsonl" in message


# ------------------------------------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["run"], ["run", "small.yaml", "--rot", "x"], ["status", "run", "a=1"], ["sample", "--model", "x"]],
)
def test_usage_errors_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: posttrain" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--json", "--root", "ROOT", "num_rounds=1", "train.dpo=null"],
        ["num_rounds=1", "--root", "ROOT", "train.dpo=null", "--json"],
        ["num_rounds=1", "train.dpo=null", "--json", "--root=ROOT"],
    ],
)
def test_overrides_may_stand_anywhere_among_the_options(recipe_file, tmp_path, capsys, arguments):
    given = [argument.replace("ROOT", str(tmp_path / "root")) for argument in arguments]
    assert main(["plan", str(recipe_file), *given]) == 0
    plan = json.loads(capsys.readouterr().out)
    labels = [stage["label"] for stage in plan["stages"]]
    assert "round_1/sft" in labels and "round_1/dpo" not in labels and "round_2/sft" not in labels
    assert not (tmp_path / "root").exists()


def test_reader_that_went_away_is_no_error(recipe_file):
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    command = f"{sys.executable} -m posttrain.cli plan {recipe_file} | head -1; echo ${{PIPESTATUS[0]}}"
    shell = ["bash", "-c", command]
    done = subprocess.run(shell, capture_output=True, text=True, env=environment, check=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""


# ------------------------------------------------------------------------------------------- settings of `train`


def test_settings_are_the_keys_of_a_recipe():
    items = ["learning_rate=5e-7", "lora.rank=4", "lora.alpha=8", "epochs=2"]
    config = read_settings(DPOConfig, items, {"max_tokens": 64})
    assert (config.learning_rate, config.epochs, config.max_tokens) == (5e-7, 2.0, 64)
    assert (config.lora.rank, config.lora.alpha) == (4, 8.0)


def test_faults_of_settings_are_listed_together():
    items = ["betta=0.1", "lora.rnak=4", "epochs=yes", "beta", "loss=[", "max_tokens.x=1"]
    with pytest.raises(RecipeError) as caught:
        read_settings(DPOConfig, items, {"max_tokens": 64})
    message = str(caught.value)
    assert message.startswith("6 faults in the settings:")
    for expected in (
        "betta: unknown key; did you mean 'beta'?",
        "lora.rnak: unknown key; did you mean 'rank'?",
        "epochs: Input should be a valid number",
        "'beta' is not key=value",
        "'loss=[': the value is not YAML",
        "max_tokens.x: 'max_tokens' is the value 64, which has no parts",
    ):
        assert expected in message


# ------------------------------------------------------------------------------------------- recipes of the project


def test_quickstart_plans_without_heavy_libraries_in_two_seconds(tmp_path):
    program = (
        "import sys, time\nstart = time.time()\nfrom posttrain.cli import main\n"
        f"main(['plan', {str(RECIPES / 'quickstart.yaml')!r}, '--root', {str(tmp_path)!r}])\n"
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'ray', 'vllm', 'pandas'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)\nprint(time.process_time(), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    heavy, seconds = done.stderr.splitlines()
    assert heavy == "[]"
    assert float(seconds) < 2.0
    assert " to run. Counts of stages to run are upper bounds (≤)" in done.stdout
