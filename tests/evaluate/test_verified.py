"""Verifiers as judges: on the command line, in a recipe's stages, and checked before a run."""

import json
from pathlib import Path

import pytest

from posttrain import functions
from posttrain.cli import main
from posttrain.config import Execution, VerifierJudge
from posttrain.core.errors import DataError
from posttrain.core.files import read_rows, write_jsonl
from posttrain.functions import check_options, check_verifier, function_content
from posttrain.preflight import load_checked_recipe
from posttrain.recipe_file import RecipeError
from posttrain.stages import StageCall
from posttrain.steps.evaluation import verify
from reward.errors import TooManyErrors
from reward.sandbox import probe
from reward.verifiers.options import _CHECKS, option_faults
from reward.verifiers.settings import BUILT_INS

RECIPE = Path(__file__).parents[1] / "tiny_recipe.yaml"

BAD = """
import os, time
def verify(prompt, completion, row):
    if completion == "hang": time.sleep(60)
    if completion == "die": os._exit(1)
    if completion == "power": return 5 ** 5 ** 5 ** 5
    if completion == "locked": open({key!r})
    return float(len(completion))
"""


def row(number, text, **more):
    prompt = [{"role": "user", "content": f"q {number}"}]
    return {"prompt_id": f"p{number:02}", "sample_index": 0, "prompt": prompt,
            "completion": [{"role": "assistant", "content": text}], **more}  # fmt: skip


def sides(tmp_path, texts_a, texts_b, **more):
    for side, texts in (("a", texts_a), ("b", texts_b)):
        write_jsonl(tmp_path / f"{side}.jsonl", [row(number, text, **more) for number, text in enumerate(texts)])
    return [
        "winrate",
        "--a",
        str(tmp_path / "a.jsonl"),
        "--b",
        str(tmp_path / "b.jsonl"),
        "--out",
        str(tmp_path / "out"),
    ]


def test_hangs_and_crashes_are_counted_as_unreadable_and_never_hang(tmp_path, capsys):
    (tmp_path / "bad.py").write_text(BAD.format(key=str(tmp_path / "key")))
    command = sides(tmp_path, ["xx"] * 18 + ["hang", "die", "power"], ["x"] * 21)
    judge = f"verifier:{tmp_path}/bad.py:verify?timeout_s=0.7&max_error_rate=0.2&memory_mb=1024"
    assert main([*command, "--judge", judge, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["wins"], result["ties"], result["losses"], result["unreadable"]) == (18, 0, 0, 3)
    scored = read_rows(tmp_path / "out" / "scored_a.jsonl")
    assert [r["score"] for r in scored[-4:]] == [2.0, None, None, None] and "timeout" in scored[-3]["error"]
    assert not list((tmp_path / "out").glob("*.journal.jsonl"))


def test_too_many_errors_stop_winrate_with_nothing_lost(tmp_path, capsys):
    (tmp_path / "bad.py").write_text(BAD.format(key=str(tmp_path / "key")))
    command = sides(tmp_path, ["x"] * 8 + ["locked"] * 2, ["x"] * 10)
    judge = ["--judge", f"verifier:{tmp_path}/bad.py:verify"]
    assert main([*command, *judge]) == 1
    message = capsys.readouterr().err
    assert "failed on 2 of the first 10 rows" in message and "FileNotFoundError" in message
    kept = read_rows(tmp_path / "out" / "verifier_a.journal.jsonl")
    assert sum("score" in line.get("outcome", {}) for line in kept) == 8
    (tmp_path / "key").touch()
    assert main([*command, *judge]) == 0


def test_built_in_verifiers_take_options_in_their_name(tmp_path, capsys):
    command = sides(tmp_path, ["it is 3.1"] * 4, ["it is 3"] * 4, reference=3.14)
    for options, wins in (("", 0), ("?tolerance=0.02", 4)):  # |3.1 − 3.14| / 3.14 = 0.0127, |3 − 3.14| / 3.14 = 0.0446
        command[-1] = str(tmp_path / f"out_{wins}")
        assert main([*command, "--judge", f"verifier:number{options}", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["wins"] == wins
    assert main([*command, "--judge", "verifier:number?tolerance"]) == 1
    assert "NAME?key=value" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["exact", "number", "regex", "json_schema", "math", "code"])
def test_every_built_in_has_a_name_and_an_identity(name):
    content, _, function = function_content(name).partition(":")
    assert len(content) == 64 and function == "verify"


def test_options_that_a_verifier_does_not_take_show_before_a_run(tmp_path):
    check_options("number", {"tolerance": 0.1, "column": "answer"})
    with pytest.raises(DataError, match="takes no option tol; it takes: column, tolerance"):
        check_options("number", {"tol": 0.1})
    overrides = ["evaluate.judge={kind: verifier, function: number, options: {tol: 1}}"]
    with pytest.raises(RecipeError, match="evaluate.judge.options: 'number' takes no option tol"):
        load_checked_recipe(RECIPE, overrides)
    recipe = load_checked_recipe(RECIPE, [overrides[0].replace("tol", "tolerance")])
    assert recipe.evaluate.judge.options == {"tolerance": 1}
    with pytest.raises(RecipeError, match="names no function.*exact, number"):
        load_checked_recipe(RECIPE, ["evaluate.judge.function=numbr"])


def test_values_of_options_show_before_a_run(tmp_path):
    (tmp_path / "mine.py").write_text("def noargs(): return 1\ndef more(p, c, r, unit): return 1\n")
    judges = {
        "near": "{kind: verifier, function: number, options: {tolerance: abc}}",
        "like": '{kind: verifier, function: regex, options: {pattern: "("}}',
        "none": f'{{kind: verifier, function: "{tmp_path}/mine.py:noargs"}}',
        "unit": f'{{kind: verifier, function: "{tmp_path}/mine.py:more"}}',
        "good": '{kind: verifier, function: regex, options: {pattern: "a|b"}}',
        "told": f'{{kind: verifier, function: "{tmp_path}/mine.py:more", options: {{unit: m}}}}',
    }
    with pytest.raises(RecipeError) as error:
        load_checked_recipe(RECIPE, [f"evaluate.judges.{name}={judge}" for name, judge in judges.items()])
    for part in (
        *("4 faults", "evaluate.judges.near.options: tolerance is 'abc'; expected a number from 0"),
        "evaluate.judges.like.options: pattern is '('; expected a regular expression (missing ), unterminated",
        f"evaluate.judges.none.function: '{tmp_path}/mine.py:noargs' takes (); a verifier is called with (prompt, ",
        f"evaluate.judges.unit.function: '{tmp_path}/mine.py:more' needs unit besides prompt",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("code", [
    "class A:\n    def f(self): pass\ndef f(p, c, r): return 1",
    "def f(*a, **k): return 1",
    "import functools\n@functools.cache\ndef f(): return 1",
    "def f(): return 1\nf = lambda p, c, r, tolerance: 1",
    "try:\n    def f(): return 1\nexcept E:\n    def f(p, c, r): return 1",
    "def f(p, c, r, /, tolerance=1): return 1",
])  # fmt: skip
def test_what_only_running_tells_is_not_refused(tmp_path, code):
    (tmp_path / "mine.py").write_text(code)
    check_verifier(f"{tmp_path}/mine.py:f", {} if "class" in code else {"tolerance": 1})


def test_every_option_of_a_built_in_verifier_has_a_check():
    for name in BUILT_INS:
        written = functions._written(name)
        assert {argument.arg for argument in written.args[3:]} == set(_CHECKS[name])
        assert option_faults(name, {"column": 3}) == ["column is 3; expected the name of a column"]


@pytest.mark.parametrize(("judge", "told"), [
    ("number?tolerance=abc", "judge 'verifier:number?tolerance=abc': tolerance is 'abc'; expected a number"),
    ("number?toler=1", "'number' takes no option toler; it takes: column, tolerance"),
    ("regex?pattern=(", "pattern is '('; expected a regular expression"),
    ("number?tolerance=1&tolerance=2", "tolerance is given more than once"),
])  # fmt: skip
def test_winrate_names_the_option_that_is_wrong(tmp_path, capsys, judge, told):
    assert main([*sides(tmp_path, ["1"], ["2"], reference=1), "--judge", f"verifier:{judge}"]) == 1
    message = capsys.readouterr().err
    assert told in message and "max_error_rate" not in message


def test_winrate_names_the_file_of_rows_that_cannot_be_judged(tmp_path, capsys):
    command = [*sides(tmp_path, ["1"] * 3, ["2"] * 3, reference=1), "--judge", "verifier:number"]
    write_jsonl(tmp_path / "b.jsonl", [{k: v for k, v in row(n, "2").items() if k != "completion"} for n in range(3)])
    assert main(command) == 1
    message = capsys.readouterr().err
    assert f"the rows of B ({tmp_path}/b.jsonl): 3 faults" in message
    assert "row 1: prompt_id 'p00' has no completion" in message
    assert "KeyError" not in message
    (tmp_path / "b.jsonl").write_text("")
    assert main(command) == 1
    assert f"{tmp_path}/b.jsonl holds no rows" in capsys.readouterr().err


def test_what_a_built_in_verifier_lacks_shows_before_a_run(monkeypatch):
    code = ["evaluate.judge={kind: verifier, function: code}"]
    monkeypatch.setattr(probe, "methods", lambda: [])
    probe.choose_method.cache_clear()
    try:
        with pytest.raises(RecipeError, match="evaluate.judge.function: model-written code does not run here"):
            load_checked_recipe(RECIPE, code)
        load_checked_recipe(RECIPE, [code[0].replace("code}", "code, options: {uncontained: true}}")])
    finally:
        probe.choose_method.cache_clear()
    monkeypatch.setitem(functions.EXTRAS, "math", ("no_such_module", "math"))
    with pytest.raises(RecipeError, match="pip install 'posttrain.math.'"):
        load_checked_recipe(RECIPE, ["evaluate.judge={kind: verifier, function: math}"])


def stage(tmp_path, texts):
    (tmp_path / "in").mkdir(exist_ok=True)
    (tmp_path / "stage").mkdir(exist_ok=True)
    write_jsonl(tmp_path / "in" / "completions.jsonl", [row(n, text, reference=3) for n, text in enumerate(texts)])
    return StageCall(
        {"completions": tmp_path / "in"}, tmp_path / "stage", Execution(workers=2), None, lambda a, b: None
    )


def test_the_stage_keeps_what_it_scored_and_goes_on(tmp_path):
    (tmp_path / "bad.py").write_text(BAD.format(key=str(tmp_path / "key")))
    judge = VerifierJudge(function=f"{tmp_path}/bad.py:verify", timeout_s=0.7)
    call = stage(tmp_path, ["x"] * 16 + ["locked", "hang", "die", "yy"])
    with pytest.raises(TooManyErrors, match="3 of the first 19"):
        verify(call, judge, "")
    assert not (tmp_path / "stage" / "scored.jsonl").exists()
    (tmp_path / "key").touch()
    metrics = verify(call, judge, "")
    assert metrics == {"num_rows": 20, "num_errors": 2, "mean_score": pytest.approx((16 + 6 + 2) / 18)}
    assert [path.name for path in (tmp_path / "stage").iterdir()] == ["scored.jsonl"]


def test_the_stage_passes_options_on(tmp_path):
    call = stage(tmp_path, ["2.5", "3"])
    assert verify(call, VerifierJudge(function="number"), "")["mean_score"] == 0.5
    assert verify(call, VerifierJudge(function="number", options={"tolerance": 0.5}), "")["mean_score"] == 1.0
