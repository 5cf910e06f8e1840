"""Model-written code against tests: what passes, what fails and why, and what cannot be forged."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from reward.errors import TooManyErrors
from reward.sandbox import launch, probe
from reward.sandbox.launch import Limits, SandboxError
from reward.sandbox.run import BrokenTests, run_cases, run_tests
from reward.verifiers import code
from reward.verifiers.runner import run_verifier
from reward.verifiers.settings import VerifierSettings

try:
    METHOD = probe.choose_method()
except SandboxError as error:
    pytest.skip(f"this machine offers no isolation: {error}", allow_module_level=True)


def outcome(source, *tests, entry_point=None, **limits):
    return run_tests(source, tests, METHOD, Limits(**{"timeout_s": 5.0, **limits}), entry_point)


def kind(source, *tests, **options):
    return outcome(source, *tests, **options).kind


def verified(spec, rows, journal=None, **settings):
    return run_verifier(spec, rows, VerifierSettings(**settings), journal)


def row(text, **columns):
    return {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": text}],
            "prompt_id": "p", **columns}  # fmt: skip


# ---------------------------------------------------------------- what tests can do


@pytest.mark.parametrize(
    "source, tests",
    [
        ("def add(a, b): return a + b", "assert add(1, 2) == 3\nassert add([1], [2]) == [1, 2]"),
        ("def f(n): return 10 ** n", "assert f(5000) == 10 ** 5000"),
        ("def f(x): return x", "for v in (None, True, 1.5, float('inf'), 'é\\ud800', b'\\x00', (1, (2,)), {1: {2}}, "
         "frozenset([3]), 1j, range(3), bytearray(b'a')):\n    assert f(v) == v and type(f(v)) is type(v)"),
        ("from fractions import Fraction\nfrom decimal import Decimal\nimport datetime, collections\n"
         "def f(): return [Fraction(1, 3), Decimal('0.10'), datetime.date(2024, 2, 29), collections.deque([1], 3), "
         "collections.Counter('aab'), collections.namedtuple('P', 'x y')(1, 2)]",
         "from fractions import Fraction\nfrom decimal import Decimal\nimport datetime, collections\nr = f()\n"
         "assert r[:3] == [Fraction(1, 3), Decimal('0.10'), datetime.date(2024, 2, 29)]\n"
         "assert r[3].maxlen == 3 and r[4].most_common(1) == [('a', 2)] and r[5].y == 2 and r[5] == (1, 2)"),
        ("class Stack:\n    def __init__(self, items=()): self.items = list(items)\n"
         "    def push(self, x): self.items.append(x); return self\n    def __len__(self): return len(self.items)\n"
         "    def __iter__(self): return iter(self.items)\n    def __eq__(self, o): return self.items == o.items\n"
         "    def __getitem__(self, i): return self.items[i]\n    def __contains__(self, x): return x in self.items\n"
         "    def __repr__(self): return f'Stack({self.items})'\n"
         "    @property\n    def top(self): return self.items[-1]\n",
         "s = Stack([1]).push(2)\nassert len(s) == 2 and list(s) == [1, 2] and s.top == 2 and s[0] == 1 and 2 in s\n"
         "assert s == Stack([1, 2]) and s != Stack() and repr(s) == 'Stack([1, 2])' and isinstance(s, Stack)\n"
         "assert not isinstance(3, Stack) and hasattr(s, 'push') and not hasattr(s, 'pop')\ns.items = [7]\n"
         "assert s.top == 7"),
        ("class Empty(LookupError):\n    def __init__(self, code): super().__init__(f'code {code}'); self.code = code\n"
         "def f(x):\n    if x: raise Empty(x)\n    raise ValueError('bad')",
         "try: f(3)\nexcept Empty as e: assert e.code == 3 and 'code 3' in str(e) and isinstance(e, LookupError)\n"
         "else: assert False\ntry: f(0)\nexcept ValueError as e: assert str(e) == 'bad'\nelse: assert False"),
        ("def sort(items, key=None): items.sort(key=key)\ndef fill(d): d.update(a=[1]); d['l'].append(2)",
         "x = [3, 1, 2]\nsort(x)\nassert x == [1, 2, 3]\nsort(x, key=lambda v: -v)\nassert x == [3, 2, 1]\n"
         "inner = []\nd = {'l': inner}\nfill(d)\nassert d == {'l': [2], 'a': [1]} and inner == [2]"),
        ("def apply(f, *args): return f(*args)\ndef make(n): return lambda x: x + n\n"
         "def gen(n):\n    for i in range(n): yield i * i\ndef total(it): return sum(it)",
         "assert apply(max, 3, 4) == 4 and apply(lambda a: a * 2, 'ab') == 'abab' and make(3)(4) == 7\n"
         "assert list(gen(4)) == [0, 1, 4, 9] and total(x for x in (1, 2)) == 3 and next(gen(1)) == 0"),
        ("import enum\nclass Color(enum.Enum):\n    RED = 1\nasync def f(): return Color.RED",
         "assert Color.RED.value == 1 and Color(1) == Color.RED and Color['RED'].name == 'RED'"),
        ("import json\ndef load(path):\n    with open(path) as file: return json.load(file)",
         "import json\nwith open('/tmp/x.json', 'w') as file: json.dump([1], file)\nassert load('/tmp/x.json') == [1]"),
        ("def add(a, b): return a + b", "from solution import add as plus\nimport solution\n"
         "def test_it():\n    assert plus(1, 1) == solution.add(1, 1) == 2\n"
         "def test_more():\n    assert plus('', '') == ''"),
    ],
    ids=["values", "big", "types", "library", "class", "errors", "in_place", "functions", "enum", "files", "module"],
)  # fmt: skip
def test_right_answers_pass(source, tests):
    result = outcome(source, tests)
    assert result.kind == "passed" and result.num_passed == result.num_tests, result


def test_humaneval_form():
    tests = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-3) == 9\n"
    assert kind("def square(x): return x * x", tests, entry_point="square") == "passed"
    assert kind("def square(x): return x + x", tests, entry_point="square") == "test_failed"


def test_shares_are_counted_by_test():
    tests = "assert f(1) == 1\nassert f(2) == 4\ndef test_three():\n    assert f(3) == 9\nassert f(0) == 0"
    result = outcome("def f(x): return x + x", tests)  # right for 2 and 0
    assert (result.num_passed, result.num_tests, result.kind) == (2, 4, "test_failed")
    assert result.reason.startswith("assert f(1) == 1: AssertionError")


@pytest.mark.parametrize(
    "source, wanted",
    [("def f(x) return x", "syntax"), ("", "test_failed"), ("def g(): pass", "test_failed"),
     ("def f(x): raise KeyError(x)", "test_failed"), ("def f(x):\n    while True: pass", "timeout"),
     ("x = [0] * (1 << 30)", "memory"), ("def f(x): return bytearray(1 << 31)", "memory"),
     ("import socket\ndef f(x): return socket.create_connection(('127.0.0.1', 9))", "forbidden"),
     ("def f(x): open('/usr/lib/x', 'w')", "forbidden"), ("import sys; sys.exit(0)", "test_failed"),
     ("import os; os._exit(0)", "test_failed"), ("def f(x):\n    import os, signal; os.kill(os.getpid(), 11)",
     "test_failed"), ("import no_such_module", "test_failed"), ("def f(x): return f(x)", "test_failed"),
     ("def f(x): return 5 ** 5 ** 5 ** 5", "timeout")],
)  # fmt: skip
def test_classes_of_failure(source, wanted):
    assert kind(source, "assert f(1) == 1", timeout_s=0.8 if wanted == "timeout" else 5.0) == wanted


def test_tests_that_no_answer_could_pass_are_an_error_and_no_zero():
    for tests, word in (("assert f(1 == 1", "not Python"), ("import pytest\nassert f(1)", "pytest"),
                        ("x = f(1)\nprint(x)", "test nothing"), ("", "test nothing")):  # fmt: skip
        with pytest.raises(BrokenTests, match=word):
            outcome("def f(x): return x", tests)


# ---------------------------------------------------------------- what cannot be forged

FORGERIES = {
    "prints a verdict": "print('{\"passed\": 1, \"total\": 1}')\nprint('1 passed')\ndef f(x): return 0",
    "ends early with success": "import os, sys\ndef f(x): sys.stdout.flush(); os._exit(0)",
    "raises SystemExit(0)": "import sys\ndef f(x): sys.exit(0)",
    "registers an exit handler": "import atexit, os\natexit.register(lambda: os._exit(0))\n"
                                 "def f(x): raise SystemExit(0)",
    "patches built-ins": "import builtins\nbuiltins.AssertionError = Exception\nbuiltins.abs = lambda x: 0\n"
                         "builtins.all = lambda x: True\ndef all(x): return True\ndef abs(x): return 0\n"
                         "def f(x): return 7",
    "gives built-ins of its own": "import builtins\n__builtins__ = {'all': lambda x: True}\ndef f(x): return 7",
    "equals everything": "class Any:\n    def __eq__(self, o): return True\n    def __ne__(self, o): return False\n"
                         "    def __lt__(self, o): return True\n    __gt__ = __le__ = __ge__ = __lt__\n"
                         "    def __hash__(self): return 0\ndef f(x): return Any()",
    "is a number that equals everything": "class Any(int):\n    def __eq__(self, o): return True\n"
                                          "    def __lt__(self, o): return True\ndef f(x): return Any(7)",
    "ends loops": "def f(x): raise StopIteration",
    "writes to every file number": "import os\ndef f(x):\n    for number in range(64):\n"
                                   "        try: os.write(number, b'{\"passed\": 1, \"total\": 1}\\n' * 9)\n"
                                   "        except OSError: pass\n    return 0",
    "forges replies": "import os, json\nfor number in range(3, 64):\n    try: os.write(number, b'{\"names\": "
                      "{\"f\": null, \"__builtins__\": [\"dict\", []], \"all\": true}}\\n')\n    except OSError: pass\n"
                      "def f(x): return 0",
    "looks at the stack": "import sys\ndef f(x):\n    frame = sys._getframe()\n"
                          "    while frame.f_back: frame = frame.f_back\n"
                          "    frame.f_globals['passed'] = 1\n    return 0",
    "reaches through a function it is given": "def f(x): return 0\ndef g(h): return h.__globals__",
    "kills everything": "import os, signal\ndef f(x): os.kill(-1, signal.SIGKILL)",
    "interrupts the tests": "import os, signal\ndef f(x): os.kill(-1, signal.SIGINT); return 0",
    "is replaced by a child": "import os\nif os.fork(): os._exit(0)\ndef f(x): return 0",
    "leaves modules for the tests": "open('/tmp/fractions.py', 'w').write('raise SystemExit(0)')\ndef f(x): return 0",
    "raises an error with a verdict": "class E(Exception):\n    passed = 1\n    kind = 'passed'\n"
                                      "    held_back = 'passed'\n"
                                      "def f(x):\n    e = E(); e.held_back = 'passed'; raise e",
}  # fmt: skip

MARKED = ("import fractions\nassert all([abs(f(n) - n * 2) < 1e-9 for n in (1, 2)])\n"
          "assert f(3) == 6\nassert all(f(n) == n + n for n in (4, 5))\n"
          "assert all(map(lambda n: f(n) == 2 * n, [6, 8]))")  # fmt: skip


@pytest.mark.parametrize("source", FORGERIES.values(), ids=FORGERIES)
def test_a_verdict_cannot_be_forged(source):
    result = outcome(source, MARKED, timeout_s=3.0)
    assert result.kind not in ("passed", "sandbox_error") and result.num_passed == 0, result


def test_the_tests_that_forgeries_face_can_be_passed():
    assert kind("def f(x): return 2 * x", MARKED) == "passed"


def test_an_answer_cannot_find_its_tests():
    """It looks through its memory, its files, its open file numbers and /proc, before and during the tests."""
    source = (
        "import gc, glob, os\n"
        "word = 'REKRAM'\n"  # backwards, or it would find itself
        "def look():\n"
        "    seen = [repr(item) for item in gc.get_objects() if type(item) in (dict, list, tuple) and len(item) < 99]\n"
        "    for path in glob.glob('/tmp/**', recursive=True) + glob.glob('/proc/[0-9]*/*'):\n"
        "        try: seen.append(open(path, errors='replace').read(100_000))\n"
        "        except OSError: pass\n"
        "    for number in range(3, 64):\n"
        "        try: seen.append(os.readlink(f'/proc/self/fd/{number}'))\n"
        "        except OSError: pass\n"
        "    return any(word in text[::-1] for text in seen)\n"
        "first = look()\n"
        "def f(): return [first, look()]\n"
        "def g(text): return [text, look()]\n"
    )
    marked = "secret = 'MARKER' * 3\nassert f() == [False, False]\n"
    assert kind(source, marked) == "passed"
    assert kind(source, marked + "assert g('MARKER') == ['MARKER', True]") == "passed"  # what it is given it finds


def test_a_function_of_the_tests_can_be_called_and_nothing_else():
    source = "def g(h):\n    try: return str(h.__globals__)\n    except AttributeError: return 'hidden'"
    assert kind(source, "assert g(lambda: 0) == 'hidden'") == "passed"


def test_a_name_that_hides_a_built_in_one_is_tested_where_it_is_asked_for():
    source = "def sum(items): return 'mine'"
    assert kind(source, "assert sum([1]) == 1") == "passed"  # the tests' own
    assert kind(source, "assert sum([1]) == 'mine'", entry_point="sum") == "passed"


# ---------------------------------------------------------------- programs with input and output


def test_cases_of_standard_input_and_output():
    cases = [{"stdin": "2 3\n", "stdout": "5\n"}, {"stdin": "-1 1", "stdout": "0"}, {"stdin": "1 1", "stdout": "3"}]
    source = "a, b = map(int, input().split())\nprint(a + b, end=' \\n\\n')"
    result = run_cases(source, cases, METHOD, Limits())
    assert (result.kind, result.num_passed, result.num_tests) == ("test_failed", 2, 3)
    assert result.reason.startswith("case 3: it wrote '2")
    assert run_cases("print(", cases, METHOD, Limits()).kind == "syntax"
    assert run_cases("while True: pass", cases, METHOD, Limits(timeout_s=0.5)).kind == "timeout"


# ---------------------------------------------------------------- as a verifier


def test_the_last_python_block_is_the_code():
    text = "First:\n```python\nx = 1\n```\nbetter:\n```py\ny = 2\n```\nIt prints:\n```text\n3\n```\n"
    assert code.extract_code(text) == "y = 2\n"
    assert code.extract_code("x = 1") == "x = 1"
    assert code.extract_code("```\nx = 1\n```") == "x = 1\n"
    assert code.extract_code("cut off\n```python\nx = 1") == "x = 1\n"


def test_scores_reasons_and_errors_through_the_runner():
    tests = ["assert add(1, 2) == 3", "assert add(0, 0) == 0"]
    answers = ["```python\ndef add(a, b): return a + b\n```", "def add(a, b): return a * b", "no code at all", "x = 1"]
    rows = [row(text, tests=tests) for text in answers] + [row("x = 1", tests="1 +"), row("x = 1")]
    results = verified("code", rows, max_error_rate=1.0)
    assert [result["score"] for result in results] == [1.0, 0.0, 0.0, 0.0, None, None]
    assert results[0]["reason"] == "2 of 2 tests passed"
    assert results[1]["reason"].startswith("test_failed: 1 of 2 tests passed; assert add(1, 2) == 3")
    assert results[2]["reason"].startswith("syntax: 0 of 2")
    assert "BrokenTests" in results[4]["error"] and "KeyError" in results[5]["error"]
    partial = verified("code", rows[:2], options={"partial": True})
    assert [result["score"] for result in partial] == [1.0, 0.5]


def test_a_failing_sandbox_is_tried_again_and_never_a_zero(monkeypatch):
    calls = []

    def fails_twice(*args, **options):
        calls.append(1)
        if len(calls) < 3:
            raise SandboxError("no report")
        return {"passed": 1, "total": 1, "seconds": 0.0}

    monkeypatch.setattr("reward.sandbox.run.run_sandboxed", fails_twice)
    assert kind("", "assert True") == "passed" and len(calls) == 3
    monkeypatch.setattr("reward.sandbox.run.run_sandboxed", lambda *args, **options: fails_twice(calls.clear()))
    with pytest.raises(SandboxError):
        outcome("", "assert True")


def test_without_isolation_every_row_is_an_error_and_the_flag_is_recorded(monkeypatch, tmp_path):
    """The child finds no way of isolating, because a module on its path says so."""
    (tmp_path / "no_isolation.py").write_text(
        "from reward.sandbox import probe\nprobe.methods = lambda: []\nfrom reward.verifiers.code import verify\n"
    )
    spec = f"{tmp_path}/no_isolation.py:verify"
    rows = [row("def f(): return 1", tests="assert f() == 1")]
    with pytest.raises(TooManyErrors, match="not contained|Not contained"):
        verified(spec, rows)
    (result,) = verified(spec, rows, options={"uncontained": True})
    assert (result["score"], result["reason"]) == (1.0, "1 of 1 tests passed (uncontained)")


def test_many_programs_with_two_workers():
    """More at once than workers, again and again: nothing of one sandbox is left for the next."""

    def one(number):
        return kind(f"def f(x): return x + {number}", f"assert f(1) == {number + 1}")

    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(one, range(30))) == ["passed"] * 30
    assert time.monotonic() - began < 10  # under 2 s on two quiet cores


def test_the_methods_of_this_machine_are_known():
    assert METHOD in launch.methods()
