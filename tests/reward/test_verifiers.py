"""Verifiers: what they score, and that nothing they do reaches the run."""

import os
import threading
import time

import pytest

from reward.errors import RewardError, TooManyErrors
from reward.verifiers import number
from reward.verifiers.runner import run_verifier


def row(text, **columns):
    return {
        "prompt": [{"role": "user", "content": "q"}],
        "completion": [{"role": "assistant", "content": text}],
        **columns,
    }


def write(tmp_path, code):
    path = tmp_path / "mine.py"
    path.write_text(code)
    return f"{path}:verify"


def score_of(spec, text, options=None, **columns):
    (result,) = run_verifier(spec, [row(text, **columns)], max_error_rate=1.0, options=options)
    return result["error"] if result["score"] is None else result["score"]


# ---------------------------------------------------------------- the runner


def test_a_function_of_a_file_scores_each_row_from_prompt_text_and_row(tmp_path):
    spec = write(tmp_path, "def verify(prompt, completion, row):\n"
                           "    return len(prompt[0]['content']) + len(completion) + row['bonus']\n")  # fmt: skip
    rows = [row("abc", bonus=0.5, prompt_id="a"), row("", bonus=10, prompt_id="b")]
    results = run_verifier(spec, rows)
    assert [r["score"] for r in results] == [4.5, 11.0]
    assert [{k: v for k, v in r.items() if k != "score"} for r in results] == rows
    assert "score" not in rows[0]


def test_each_kind_of_fault_is_an_error_of_its_row_and_never_a_zero(tmp_path):
    spec = write(
        tmp_path,
        """
import os, sys, time
def verify(prompt, completion, row):
    if completion == "raise": raise KeyError("nothing here")
    if completion == "exit": sys.exit(0)
    if completion == "die": os._exit(3)
    if completion == "segfault": os.kill(os.getpid(), 11)
    if completion == "hang": time.sleep(60)
    if completion == "none": return None
    if completion == "nan": return float("nan")
    if completion == "text": return "1.0"
    if completion == "memory": return len(bytearray(1 << 33))
    print("noise on standard output", flush=True)
    return 1
""",
    )
    kinds = ["ok", "raise", "exit", "die", "segfault", "hang", "none", "nan", "text", "memory", "ok"]
    results = run_verifier(spec, [row(kind) for kind in kinds], timeout_s=1.0, max_error_rate=1.0)
    assert [r["score"] for r in results] == [1.0, *[None] * 9, 1.0]
    errors = [r.get("error", "") for r in results]
    for error, word in zip(errors[1:-1], ["KeyError: 'nothing here'", "SystemExit", "exit code 3", "SIGSEGV", "timeout",
                                          "None", "nan", "'1.0'", "MemoryError"], strict=True):  # fmt: skip
        assert word in error


def test_work_that_holds_the_interpreter_is_killed_too(tmp_path):
    spec = write(
        tmp_path,
        """
import re
def verify(prompt, completion, row):
    if completion == "power": return (5 ** 5 ** 5 ** 5) % 10
    if completion == "regex": return bool(re.match(r"(a+)+$", "a" * 60 + "b"))
    return len(completion)
""",
    )
    began = time.monotonic()
    results = run_verifier(spec, [row("power"), row("regex"), row("x" * 1_000_000), row("ab")], 1.0, max_error_rate=1.0)
    assert [r["score"] for r in results] == [None, None, 1e6, 2.0]
    assert all("timeout" in r["error"] or "MemoryError" in r["error"] for r in results[:2])
    assert time.monotonic() - began < 30


def test_what_a_verifier_starts_is_killed_with_it(tmp_path):
    spec = write(
        tmp_path,
        f"""
import subprocess, time
def verify(prompt, completion, row):
    child = subprocess.Popen(["sleep", "300"])
    open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
    time.sleep(60)
""",
    )
    run_verifier(spec, [row("x")], timeout_s=1.5, max_error_rate=1.0)
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _runs(pid):
        time.sleep(0.05)
    assert not _runs(pid)


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_verifier_works_from_a_thread(tmp_path):
    spec = write(tmp_path, "import time\ndef verify(prompt, completion, row):\n"
                           "    if completion == 'hang': time.sleep(60)\n    return 1\n")  # fmt: skip
    results = []
    thread = threading.Thread(
        target=lambda: results.extend(run_verifier(spec, [row("hang"), row("ok")], 1.0, max_error_rate=1.0))
    )
    thread.start()
    thread.join(timeout=60)
    assert [r["score"] for r in results] == [None, 1.0]


def test_too_many_errors_stop_the_run_and_keep_what_was_scored(tmp_path):
    spec = write(tmp_path, "def verify(prompt, completion, row):\n    return 1 / int(completion)\n")
    rows = [row(text) for text in ["1", "2", "0", "4", "0", "0", "1", "1", "1", "1"]]
    assert [r["score"] for r in run_verifier(spec, rows, max_error_rate=0.3)].count(None) == 3
    with pytest.raises(TooManyErrors, match="ZeroDivisionError") as caught:
        run_verifier(spec, rows, max_error_rate=0.2)
    assert [r["score"] for r in caught.value.rows] == [1.0, 0.5, None, 0.25, None, None]


def test_a_verifier_that_never_succeeds_is_given_up_early(tmp_path):
    spec = write(tmp_path, "def verify(prompt, completion, row):\n    raise ValueError('broken')\n")
    with pytest.raises(TooManyErrors, match="20 of the first 20") as caught:
        run_verifier(spec, [row("x")] * 5000, max_error_rate=0.9)
    assert len(caught.value.rows) == 20


def test_a_stale_score_is_replaced(tmp_path):
    spec = write(tmp_path, "def verify(prompt, completion, row):\n    return 1 / int(completion)\n")
    results = run_verifier(spec, [row("0", score=7.0), row("2", score=7.0, error="old")], max_error_rate=1.0)
    assert [r["score"] for r in results] == [None, 0.5] and "error" not in results[1]


def test_a_reason_beside_the_score_is_kept(tmp_path):
    spec = write(tmp_path, "def verify(prompt, completion, row):\n    return 0.0, 'too short'\n")
    (result,) = run_verifier(spec, [row("x")])
    assert (result["score"], result["reason"]) == (0.0, "too short")


@pytest.mark.parametrize(
    "spec, word",
    [("/nowhere/mine.py:verify", "does not exist"), ("no_such_package.module:verify", "no_such_package"),
     ("json:no_such_function", "no_such_function"), ("just_a_name", "FILE.py:FUNCTION")],
)  # fmt: skip
def test_a_verifier_that_is_not_there_is_named(spec, word):
    with pytest.raises(RewardError, match=word):
        run_verifier(spec, [row("x")])


def test_a_file_that_does_not_import_says_why(tmp_path):
    with pytest.raises(RewardError, match="NameError.*undefined_thing"):
        run_verifier(write(tmp_path, "undefined_thing\n"), [row("x")])


def test_a_verifier_may_import_its_neighbours(tmp_path):
    (tmp_path / "neighbour_of_mine.py").write_text("VALUE = 3\n")
    spec = write(
        tmp_path, "from neighbour_of_mine import VALUE\ndef verify(prompt, completion, row):\n    return VALUE\n"
    )
    assert run_verifier(spec, [row("x")])[0]["score"] == 3.0


def test_a_relative_file_is_looked_up_where_the_user_stands(tmp_path, monkeypatch):
    write(tmp_path, "def verify(prompt, completion, row):\n    return 1\n")
    monkeypatch.chdir(tmp_path)
    assert run_verifier("mine.py:verify", [row("x")])[0]["score"] == 1.0
    assert run_verifier("mine:verify", [row("x")])[0]["score"] == 1.0


def test_no_rows_start_no_process():
    assert run_verifier("/nowhere/mine.py:verify", []) == []


def test_many_cheap_rows_are_cheap(tmp_path):
    spec = write(tmp_path, "def verify(prompt, completion, row):\n    return len(completion)\n")
    began = time.monotonic()
    results = run_verifier(spec, [row("x" * (i % 50)) for i in range(5000)])
    assert [r["score"] for r in results] == [float(i % 50) for i in range(5000)]
    assert time.monotonic() - began < 15  # about half a second on a quiet machine


def test_the_child_ends_with_its_parent(tmp_path):
    """A run that is killed leaves no verifier behind, even one that hangs."""
    import signal
    import subprocess
    import sys

    spec = write(
        tmp_path,
        f"""
import os, time
def verify(prompt, completion, row):
    open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
    time.sleep(300)
""",
    )
    script = ("from reward.verifiers.runner import run_verifier\n"
              f"run_verifier({spec!r}, [{row('x')!r}], timeout_s=200)")  # fmt: skip
    parent = subprocess.Popen([sys.executable, "-c", script], env=dict(os.environ))
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    pid = int((tmp_path / "pid").read_text())
    while time.monotonic() < deadline and _runs(pid):
        time.sleep(0.02)
    assert not _runs(pid)


# ---------------------------------------------------------------- the built-in ones


def test_exact_match_folds_white_space_but_not_case():
    assert score_of("exact", " Paris \n", reference="Paris") == 1.0
    assert score_of("exact", "paris", reference="Paris") == 0.0
    assert score_of("exact", "paris", options={"ignore_case": True}, reference=["Rome", "Paris"]) == 1.0
    assert "KeyError" in score_of("exact", "Paris")


@pytest.mark.parametrize(
    "text, value",
    [("The answer is 1,234.5 .", 1234.5), ("-3", -3.0), ("x = 1.5e3", 1500.0), ("3/4", 0.75), ("first 5 then 7", 7.0),
     ("it costs .5", 0.5), ("1,2", 2.0), ("−2", -2.0), ("12 apples.", 12.0)],
)  # fmt: skip
def test_the_last_number_of_a_text(text, value):
    assert number.last_number(text) == (value,)


def test_numbers_within_a_tolerance():
    assert score_of("number", "it is 0.33", options={"tolerance": 0.01}, reference=1 / 3) == 1.0
    assert score_of("number", "it is 0.33", reference=1 / 3) == 0.0
    assert score_of("number", "50 %", reference="0.5") == 1.0
    assert score_of("number", "no idea", reference=4) == 0.0
    assert "no number" in score_of("number", "4", reference="four")


def test_a_regular_expression_of_the_row_or_of_the_options():
    assert score_of("regex", "order 66", pattern=r"\d{2}$") == 1.0
    assert score_of("regex", "order", options={"pattern": r"^ord"}) == 1.0
    assert score_of("regex", "order", options={"pattern": r"^d"}) == 0.0


def test_json_that_satisfies_a_schema():
    pytest.importorskip("jsonschema")
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
    rows = [row(text, schema=schema) for text in ['{"a": 1}', '```json\n{"a": 2}\n```', '{"a": "1"}', "{a: 1}"]]
    results = run_verifier("json_schema", rows)
    assert [r["score"] for r in results] == [1.0, 1.0, 0.0, 0.0]
    assert "$.a" in results[2]["reason"] and "not JSON" in results[3]["reason"]


@pytest.mark.slow
def test_mathematical_equality():
    pytest.importorskip("math_verify")
    cases = [("The answer is $\\frac{1}{2}$", "0.5", 1.0), ("so $x = 3$", "$3$", 1.0), ("It is 4", "$5$", 0.0),
             ("no idea", "$5$", 0.0), ("$2\\sqrt{2}$", "$\\sqrt{8}$", 1.0)]  # fmt: skip
    rows = [row(text, reference=reference) for text, reference, _ in cases]
    results = run_verifier("math", rows, timeout_s=60)
    assert [r["score"] for r in results] == [score for _, _, score in cases]
