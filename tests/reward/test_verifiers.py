"""Verifiers: what they score, and that nothing they do reaches the run."""

import os
import threading
import time

import pytest

from reward.errors import RewardError, TooManyErrors
from reward.verifiers import number
from reward.verifiers.runner import run_verifier
from reward.verifiers.settings import VerifierSettings, parse_verifier


def verified(spec, rows, journal=None, **settings):
    return run_verifier(spec, rows, VerifierSettings(**settings), journal)


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
    (result,) = verified(spec, [row(text, **columns)], max_error_rate=1.0, options=options or {})
    return result["error"] if result["score"] is None else result["score"]


# ---------------------------------------------------------------- the runner


def test_a_function_of_a_file_scores_each_row_from_prompt_text_and_row(tmp_path):
    spec = write(tmp_path, "def verify(prompt, completion, row):\n"
                           "    return len(prompt[0]['content']) + len(completion) + row['bonus']\n")  # fmt: skip
    rows = [row("abc", bonus=0.5, prompt_id="a"), row("", bonus=10, prompt_id="b")]
    results = verified(spec, rows)
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
    results = verified(spec, [row(kind) for kind in kinds], timeout_s=1.0, max_error_rate=1.0)
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
    texts = ["power", "regex", "x" * 1_000_000, "ab"]
    results = verified(spec, [row(text) for text in texts], timeout_s=1.0, max_error_rate=1.0)
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
    verified(spec, [row("x")], timeout_s=1.5, max_error_rate=1.0)
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 30
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
        target=lambda: results.extend(verified(spec, [row("hang"), row("ok")], timeout_s=1.0, max_error_rate=1.0))
    )
    thread.start()
    thread.join(timeout=60)
    assert [r["score"] for r in results] == [None, 1.0]


def test_too_many_errors_stop_the_run_and_keep_what_was_scored(tmp_path):
    spec = write(tmp_path, "def verify(prompt, completion, row):\n    return 1 / int(completion)\n")
    rows = [row(text) for text in ["1", "2", "0", "4", "0", "0", "1", "1", "1", "1"]]
    assert [r["score"] for r in verified(spec, rows, max_error_rate=0.3)].count(None) == 3
    with pytest.raises(TooManyErrors, match="ZeroDivisionError") as caught:
        verified(spec, rows, max_error_rate=0.2)
    assert [r["score"] for r in caught.value.rows] == [1.0, 0.5, None, 0.25, None, None]


def test_a_verifier_that_never_succeeds_is_given_up_early(tmp_path):
    spec = write(tmp_path, "def verify(prompt, completion, row):\n    raise ValueError('broken')\n")
    with pytest.raises(TooManyErrors, match="20 of the first 20") as caught:
        verified(spec, [row("x")] * 5000, max_error_rate=0.9)
    assert len(caught.value.rows) == 20


def test_a_stale_score_is_replaced(tmp_path):
    spec = write(tmp_path, "def verify(prompt, completion, row):\n    return 1 / int(completion)\n")
    results = verified(spec, [row("0", score=7.0), row("2", score=7.0, error="old")], max_error_rate=1.0)
    assert [r["score"] for r in results] == [None, 0.5] and "error" not in results[1]


def test_a_reason_beside_the_score_is_kept(tmp_path):
    spec = write(tmp_path, "def verify(prompt, completion, row):\n    return 0.0, 'too short'\n")
    (result,) = verified(spec, [row("x")])
    assert (result["score"], result["reason"]) == (0.0, "too short")


@pytest.mark.parametrize(
    "spec, word",
    [("/nowhere/mine.py:verify", "does not exist"), ("no_such_package.module:verify", "no_such_package"),
     ("json:no_such_function", "no_such_function"), ("just_a_name", "FILE.py:FUNCTION")],
)  # fmt: skip
def test_a_verifier_that_is_not_there_is_named(spec, word):
    with pytest.raises(RewardError, match=word):
        verified(spec, [row("x")])


def test_a_file_that_does_not_import_says_why(tmp_path):
    with pytest.raises(RewardError, match="NameError.*undefined_thing"):
        verified(write(tmp_path, "undefined_thing\n"), [row("x")])


def test_a_verifier_may_import_its_neighbours(tmp_path):
    (tmp_path / "neighbour_of_mine.py").write_text("VALUE = 3\n")
    spec = write(
        tmp_path, "from neighbour_of_mine import VALUE\ndef verify(prompt, completion, row):\n    return VALUE\n"
    )
    assert verified(spec, [row("x")])[0]["score"] == 3.0


def test_a_relative_file_is_looked_up_where_the_user_stands(tmp_path, monkeypatch):
    write(tmp_path, "def verify(prompt, completion, row):\n    return 1\n")
    monkeypatch.chdir(tmp_path)
    assert verified("mine.py:verify", [row("x")])[0]["score"] == 1.0
    assert verified("mine:verify", [row("x")])[0]["score"] == 1.0


def test_no_rows_start_no_process():
    assert verified("/nowhere/mine.py:verify", []) == []


def test_many_cheap_rows_are_cheap(tmp_path):
    spec = write(tmp_path, "def verify(prompt, completion, row):\n    return len(completion)\n")
    began = time.monotonic()
    results = verified(spec, [row("x" * (i % 50)) for i in range(5000)])
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
    script = ("from reward.verifiers.runner import VerifierSettings, run_verifier\n"
              f"run_verifier({spec!r}, [{row('x')!r}], VerifierSettings(timeout_s=200))")  # fmt: skip
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


# ---------------------------------------------------------------- under pressure


PRESSURE = {
    "endless": "while True: pass",
    "power": "return 5 ** 5 ** 5 ** 5",
    "regex": "import re; return bool(re.match(r'(a+)+$', 'a' * 60 + 'b'))",
    "exit": "import os; os._exit(0)",
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "segfault": "import ctypes; ctypes.string_at(0)",
    "memory": "return len(bytearray(1 << 34))",
    "recursion": "return verify(prompt, completion, row)",
    "closes": "import os; os.closerange(3, 64)",
    "answers": "import os\n    for number in range(3, 16):\n        try: os.write(number, b'{\"number\": 7}\\n')\n"
               "        except OSError: pass\n    return 1",
    "floods": "import os\n    for number in range(3, 16):\n        try:\n"
              "            while True: os.write(number, b'x' * 65536)\n"
              "        except OSError: pass",
}  # fmt: skip


def pressing(tmp_path):
    """A verifier that does what its row says, and scores ordinary rows by their length."""
    cases = "".join(
        f"def {name}(prompt, completion, row):\n    {code}\n\n".replace("verify(", f"{name}(")
        for name, code in PRESSURE.items()
    )
    return write(
        tmp_path, f"{cases}\ndef verify(prompt, completion, row):\n"
        "    do = globals().get(completion)\n"
        "    return do(prompt, completion, row) if do else len(completion)\n"
    )  # fmt: skip


def test_whatever_a_verifier_does_is_an_error_of_its_row_alone(tmp_path):
    texts = [text for name in PRESSURE for text in (name, "x" * 3)] + ["y" * 1_000_000]
    results = verified(
        pressing(tmp_path), [row(text) for text in texts], timeout_s=0.7, max_error_rate=1.0, memory_mb=1024, workers=2
    )
    assert [r["score"] for r in results] == [None, 3.0] * len(PRESSURE) + [1e6]
    errors = {name: results[2 * index]["error"] for index, name in enumerate(PRESSURE)}
    for name, word in (("endless", "timeout"), ("regex", "timeout"), ("exit", "exit code 0"), ("killed", "SIGKILL"),
                       ("segfault", "SIGSEGV"), ("memory", "MemoryError"), ("recursion", "RecursionError"),
                       ("answers", "into the pipe"), ("floods", "into the pipe")):  # fmt: skip
        assert word in errors[name], errors
    assert "timeout" in errors["power"] or "MemoryError" in errors["power"]


def test_one_that_prints_and_reads_is_left_alone(tmp_path):
    spec = write(
        tmp_path,
        "import sys\nprint('at import')\ndef verify(prompt, completion, row):\n"
        "    print('x' * 3_000_000); sys.stderr.write('y' * 3_000_000)\n    return len(sys.stdin.read())\n",
    )
    assert [r["score"] for r in verified(spec, [row("a"), row("b")])] == [0.0, 0.0]


def test_one_that_forks_answers_once(tmp_path):
    spec = write(
        tmp_path, "import os\ndef verify(prompt, completion, row):\n    os.fork()\n    return len(completion)\n"
    )
    results = verified(spec, [row("a" * n) for n in range(1, 9)])
    assert [r["score"] for r in results] == [float(n) for n in range(1, 9)]


def test_a_daemon_that_it_starts_ends_with_it(tmp_path):
    spec = write(
        tmp_path,
        f"""
import os, time
def verify(prompt, completion, row):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
            time.sleep(300)
        os._exit(0)
    while not os.path.exists({str(tmp_path / "pid")!r}) or not open({str(tmp_path / "pid")!r}).read(): time.sleep(0.01)
    return 1
""",
    )
    assert verified(spec, [row("x")])[0]["score"] == 1.0
    assert not _runs(int((tmp_path / "pid").read_text()))


def test_workers_give_the_same_in_the_same_order(tmp_path):
    spec = write(
        tmp_path, "import os\ndef verify(prompt, completion, row):\n    return len(completion), str(os.getpid())\n"
    )
    rows = [row("x" * n) for n in range(50)]
    results = verified(spec, rows, workers=2)
    assert [r["score"] for r in results] == [float(n) for n in range(50)]
    assert len({r["reason"] for r in results}) == 2
    with pytest.raises(TooManyErrors):
        verified(write(tmp_path, "def verify(prompt, completion, row): 1 / 0\n"), rows, workers=2)


def test_what_was_scored_is_kept_and_a_rerun_goes_on(tmp_path):
    """Rows 3 and 4 fail while a file is missing: the first run stops there, the second asks for nothing but those."""
    asked, key = tmp_path / "asked", tmp_path / "key"
    spec = write(
        tmp_path,
        f"def verify(prompt, completion, row):\n    open({str(asked)!r}, 'a').write(completion + ' ')\n"
        f"    if completion in '34': open({str(key)!r})\n    return int(completion)\n",
    )
    rows = [row(text) for text in "0123456789"]
    journal = tmp_path / "journal.jsonl"
    with pytest.raises(TooManyErrors) as caught:
        verified(spec, rows, journal=journal)
    assert [r["score"] for r in caught.value.rows] == [0.0, 1.0, 2.0, None, None]
    asked.unlink()
    key.touch()
    assert [r["score"] for r in verified(spec, rows, journal=journal)] == [float(n) for n in range(10)]
    assert asked.read_text().split() == list("3456789")
    asked.unlink()
    verified(spec, rows[::-1], journal=journal)
    assert not asked.exists()
    verified(spec, rows[:1], journal=journal, options={}, max_error_rate=1.0)
    assert not asked.exists()
    (tmp_path / "mine.py").write_text((tmp_path / "mine.py").read_text() + "\n# another verifier\n")
    verified(spec, rows[:1], journal=journal)
    assert asked.read_text().split() == ["0"]


def test_a_module_is_known_by_its_content_as_a_file_is(tmp_path, monkeypatch):
    """Neither module is imported here: the second would end this process."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def verify(prompt, completion, row): return 1\n")
    journal = tmp_path / "journal.jsonl"
    assert verified("mine:verify", [row("x")], journal)[0]["score"] == 1.0
    harmful = "import sys\nif 'pytest' in sys.modules: sys.exit(3)\n"
    (tmp_path / "mine.py").write_text(f"{harmful}def verify(prompt, completion, row): return 2\n")
    assert verified("mine:verify", [row("x")], journal)[0]["score"] == 2.0
    installed = tmp_path / "installed" / "package"
    installed.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(installed.parent))
    monkeypatch.setenv("PYTHONPATH", str(installed.parent), prepend=":")
    for score in (3, 4):
        (installed / "__init__.py").write_text("")
        (installed / "judging.py").write_text(f"{harmful}def verify(prompt, completion, row): return {score}\n")
        assert verified("package.judging:verify", [row("x")], journal)[0]["score"] == float(score)


def test_equal_scores_throughout_are_warned_about(caplog, tmp_path):
    spec = write(tmp_path, "def verify(prompt, completion, row):\n    return float(completion == 'b')\n")
    verified(spec, [row("a")] * 19 + [row("b")])
    assert not caplog.records
    verified(spec, [row("a")] * 20)
    assert "all of 20 rows the score 0" in caplog.text


def test_an_import_that_fails_names_the_function_and_its_line(tmp_path):
    spec = write(tmp_path, "import json\nimport no_such_module\ndef verify(prompt, completion, row): return 1\n")
    with pytest.raises(RewardError) as error:
        verified(spec, [row("x")])
    for part in (f"verifier '{spec}' cannot be imported: Module", "mine.py, line 2: import no_such_module"):
        assert part in str(error.value)
    assert "are named" not in str(error.value)
    with pytest.raises(RewardError, match="no_such:f.*are named FILE.py:FUNCTION"):
        verified("no_such:f", [row("x")])


def test_of_a_long_error_the_first_line_is_shown(tmp_path):
    spec = write(tmp_path, "def verify(prompt, completion, row): raise RuntimeError('one\\ntwo')\n")
    with pytest.raises(TooManyErrors, match=r"RuntimeError: one …\. Mend the verifier, or raise its max_error_rate"):
        verified(spec, [row("x")])


def test_options_are_part_of_a_name():
    assert parse_verifier("number") == ("number", VerifierSettings())
    function, settings = parse_verifier("mine.py:f?tolerance=0.01&pattern=a%26b&flags=[1]&timeout_s=2&workers=2")
    assert function == "mine.py:f" and settings.options == {"tolerance": 0.01, "pattern": "a&b", "flags": [1]}
    assert (settings.timeout_s, settings.workers) == (2, 2)
    for wrong in ("number?tolerance", "number?timeout_s=soon", "number?workers=1.5", "number?timeout_s=0"):
        with pytest.raises(RewardError, match="number"):
            parse_verifier(wrong)


# ---------------------------------------------------------------- the built-in ones


def test_exact_match_folds_white_space_but_not_case():
    assert score_of("exact", " Paris \n", reference="Paris") == 1.0
    assert score_of("exact", "paris", reference="Paris") == 0.0
    assert score_of("exact", "paris", options={"ignore_case": True}, reference=["Rome", "Paris"]) == 1.0
    assert "KeyError" in score_of("exact", "Paris")
    assert "ValueError" in score_of("exact", "None", reference=None)


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
    assert "no number" in score_of("number", "4", reference="1e999")
    assert score_of("number", "1e400", reference="1e300") == 0.0
    assert score_of("number", "7" * 1_000_000, reference=7) == 0.0


def test_a_regular_expression_of_the_row_or_of_the_options():
    assert score_of("regex", "order 66", pattern=r"\d{2}$") == 1.0
    assert score_of("regex", "order", options={"pattern": r"^ord"}) == 1.0
    assert score_of("regex", "order", options={"pattern": r"^d"}) == 0.0


def test_json_that_satisfies_a_schema():
    pytest.importorskip("jsonschema")
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
    rows = [row(text, schema=schema) for text in ['{"a": 1}', '```json\n{"a": 2}\n```', '{"a": "1"}', "{a: 1}"]]
    results = verified("json_schema", rows)
    assert [r["score"] for r in results] == [1.0, 1.0, 0.0, 0.0]
    assert "$.a" in results[2]["reason"] and "not JSON" in results[3]["reason"]


def test_json_is_strict_and_nothing_is_fetched():
    pytest.importorskip("jsonschema")
    assert score_of("json_schema", '{"a": NaN}', schema={}) == 0.0
    assert score_of("json_schema", "1", schema={"type": "integer"}) == 1.0
    assert "Unresolvable" in score_of("json_schema", "1", schema={"$ref": "http://127.0.0.1:9/schema.json"})
    slow = {"type": "string", "pattern": "^(a+)+$"}
    (result,) = verified("json_schema", [row(f'"{"a" * 60}b"', schema=slow)], timeout_s=1.0, max_error_rate=1.0)
    assert "timeout" in result["error"]


@pytest.mark.slow
def test_mathematical_equality():
    pytest.importorskip("math_verify")
    cases = [("The answer is $\\frac{1}{2}$", "0.5", 1.0), ("so $x = 3$", "$3$", 1.0), ("It is 4", "$5$", 0.0),
             ("no idea", "$5$", 0.0), ("$2\\sqrt{2}$", "$\\sqrt{8}$", 1.0), ("\\boxed{1} or \\boxed{2}", "2", 0.0),
             ("1,000", "1000", 1.0), ("10%", "0.1", 1.0), ("0.333", "$1/3$", 0.0), ("4", "{1,2,3}", None)]  # fmt: skip
    rows = [row(text, reference=reference) for text, reference, _ in cases]
    results = verified("math", rows, timeout_s=60)
    assert [r["score"] for r in results] == [score for _, _, score in cases]
    (rounded,) = verified("math", [row("0.333", reference="$1/3$")], timeout_s=60, options={"float_rounding": 3})
    assert rounded["score"] == 1.0
    power = row("$5^{5^{5^5}}$", reference="$2$")
    results = verified("math", [rows[2], power, rows[2]], timeout_s=4, max_error_rate=1.0)
    assert [r["score"] for r in results] == [0.0, None, 0.0] and "error" in results[1]
