"""Right code is found however an answer wraps it: simonw/llm#1695, NVIDIA-NeMo/Gym#1844, huggingface/tau#354."""

from made import assistant, read_rows, user, write_rows

from reward.verifiers.code import extract_code

CODE = "def add(a, b):\n    return a + b\n"
FENCES = {
    "no label": "```\n{}```",
    "python3": "```python3\n{}```",
    "capitals": "``` Python\n{}```",
    "file behind a colon": "```python:solution.py\n{}```\nThis adds two numbers.",
    "file name": "```src/solution.py\n{}```",
    "attributes": '```python title="solution.py" {{1,2}}\n{}```\nThis adds.',
    "version": "```python3.11\n{}```\nThis adds.",
    "braces": "```{{python}}\n{}```",
    "pandoc": "```{{.python .numberLines}}\n{}```",
    "tildes": "~~~python\n{}~~~\nThis adds.",
    "four marks": "````python\n{}````",
    "tag around": "<answer>\n```python\n{}```\n</answer>",
    "output behind": "```python\n{}```\nOutput:\n```\n3\n```",
    "shell behind": "```python\n{}```\n```bash\npython add.py\n```",
    "text label behind": "```python\n{}```\n```text\n3\n```",
    "an example of its use behind": "```python\n{}```\n```python\nprint(add(1, 2))\n```",
    "cut off": "```python\n{}",
    "all of it": "{}",
    "a wrong one before": "```python\ndef add(a, b):\n    return a - b\n```\nNo:\n```python\n{}```",
}
# A function with an empty line, and with characters at which str.splitlines cuts and Python's parser does not.
BODIES = {
    "plain": CODE,
    "empty line": "def add(a, b):\n    total = a + b\n\n    return total\n",
    "U+2028 in a string": "def add(a, b):\n    odd = '\u2028'\n    return a + b\n",
    "U+0085 in a comment": "def add(a, b):\n    # a line end of old: \u0085 it was\n    return a + b\n",
    "separators in a string": "def add(a, b):\n    odd = '\x1c\x1d\x1e\x0b'\n    return a + b\n",
    "form feed between": "def add(a, b):\n    return a + b\n\x0c\ndef other():\n    return 1\n",
}


def test_the_block_that_a_reader_sees_is_the_code():
    wrong = []
    for form, fence in FENCES.items():
        for name, body in BODIES.items():
            found = extract_code(fence.format(body), "add")
            if found != body:
                wrong.append((form, name, found))
    assert not wrong


def test_blocks_in_lists_quotes_and_behind_windows_line_ends():
    deep = "".join(f"       {line}\n" for line in ["```python", *CODE.splitlines(), "```"])
    quoted = "".join(f"> {line}\n" for line in ["```python", *CODE.splitlines(), "```"])
    listed = "1. Here:\n" + "".join(f"   {line}\n" for line in ["```python", *CODE.splitlines(), "```"])
    answers = (deep, quoted, listed, f"```python\n{CODE}```\n".replace("\n", "\r\n"))
    assert [extract_code(answer) for answer in answers] == [CODE] * 4
    assert extract_code("Like this:\n\n    def add(a, b):\n        return a + b\n\nIt adds.") == CODE


def test_other_languages_are_no_python():
    text = "```pytest\nx\n```\n```pycon\n>>> 1\n```\n```python-repl\n>>> 1\n```\n```cpp\nint x;\n```"
    assert extract_code(text) == text  # no block can be taken, so all of it is


def test_the_code_verifier_runs_what_was_found(tmp_path, run_command):
    sides = {"a": [f"Here:\n```python\n{body}```\n" for body in BODIES.values()], "b": ["pass"] * len(BODIES)}
    for side, texts in sides.items():
        rows = [
            {"prompt": user("Write add(a, b)."), "prompt_id": f"p{i}", "completion": assistant(text),
             "tests": "assert add(1, 2) == 3"} for i, text in enumerate(texts)
        ]  # fmt: skip
        write_rows(tmp_path / f"{side}.jsonl", rows)
    ran = run_command(
        "winrate", "--a", tmp_path / "a.jsonl", "--b", tmp_path / "b.jsonl", "--judge", "verifier:code",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert ran.code == 0, ran.said
    assert [row["score"] for row in read_rows(tmp_path / "out" / "scored_a.jsonl")] == [1.0] * len(BODIES)


def test_lines_of_output_that_differ_in_their_separator_differ():
    from reward.sandbox.run import _lines

    assert _lines("a\r\nb \n\n") == _lines("a\nb") == ["a", "b"]
    assert _lines("a\u2028b") != _lines("a\nb")
