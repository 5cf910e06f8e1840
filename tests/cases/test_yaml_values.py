"""Recipes and `key=value` items: each odd value is read as a person means it, or refused with its place."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from posttrain.core.errors import DataError
from posttrain.core.files import read_jsonl, read_rows, read_text
from posttrain.evaluate.compare import template_text
from posttrain.functions import check_verifier
from posttrain.recipe import load_recipe
from posttrain.recipe_file import RecipeError, read_value
from reward.judges import pairwise
from reward.judges.quoting import read_template
from synth.prompts.template import load_template

RECIPES = Path(__file__).parents[2] / "recipes"
READ = {
    "no": "no", "on": "on", "Off": "Off", "y": "y", "[en, no]": ["en", "no"], "true": True, "1e-3": 1e-3, "1E3": 1000.0,
    "1.0e3": 1000.0, "2e-05": 2e-5, "-.5": -0.5, "1.": 1.0, "+5": 5, "-0": 0, "0": 0, "~": None, "": None,
    "2026-12-01": "2026-12-01", "1,0": "1,0", "'010'": "010", "127.0.0.1:8000": "127.0.0.1:8000", "1e400": "1e400",
    "12e4567890123456789012345678901234567890": "12e4567890123456789012345678901234567890", " 7": 7,
}  # fmt: skip
REFUSED = {
    "010": "write 8 or 10 for the number", "-010": "write -8 or -10", "08": "write 8 for", "0o10": "write 8 for",
    "0x10": "write 16 for", "0b11": "write 3 for", "1:30": "write 90 for", "1:30:00": "write 5400 for",
    "1_0": "write 10 for", "1_000.5": "write 1000.5 for", "2024_12": "or put it in quotes for text",
    "[1, 010]": "write 8 or 10", "{a: 1, a: 2}": "key 'a' is given twice", "{010: 1}": "write 8 or 10",
    "{<<: {a: 1}}": "<< merges another section", "{no: 1, 1: 2}": "key 1 is no text", "a: 1\n---\nb: 2": "line 2",
    "a:\u00a01\nb: 2": "line 1 holds no-break space (U+00A0), write spaces", "a:\n\tb: 1": "line 2 holds a tab",
}  # fmt: skip


def refusal(text):
    try:
        return f"read as {read_value('key', text)!r}"
    except RecipeError as error:
        return str(error)


def test_plain_values_mean_what_they_look_like():
    """After huggingface/huggingface_hub#797 (`no` read as false) and snowflakedb/ArcticTraining#85 (a key twice)."""
    read = {text: read_value("key", text) for text in READ}
    assert {text: value for text, value in read.items() if repr(value) != repr(READ[text])} == {}
    told = {text: refusal(text) for text in REFUSED}
    assert {text: message for text, message in told.items() if REFUSED[text] not in message} == {}


def test_a_recipe_and_an_override_refuse_alike(tmp_path):
    """`seed: 010` was 8 and `seed: 1:30` was 90 without a word."""
    plain = (RECIPES / "frozen_reward.yaml").read_text(encoding="utf-8")
    recipe = tmp_path / "case.yaml"
    for value, expected in (("010", "write 8 or 10"), ("1:30", "write 90")):
        recipe.write_text(plain.replace("seed: 0", f"seed: {value}", 1), encoding="utf-8")
        with pytest.raises(RecipeError, match=rf"case.yaml is not YAML: {value} is read .*\(line 9\); {expected}"):
            load_recipe(recipe)
        with pytest.raises(RecipeError, match=f"'seed={value}': .*{expected}"):
            load_recipe(RECIPES / "frozen_reward.yaml", [f"seed={value}"])
    recipe.write_text(plain.replace("seed: 0", "seed: 1e3", 1), encoding="utf-8")
    assert load_recipe(recipe).seed == 1000


def test_a_byte_order_mark_is_no_content(tmp_path, run_command):
    """In recipes, templates of generators and judges, rows and functions; other encodings are named."""
    plain = (RECIPES / "frozen_reward.yaml").read_text(encoding="utf-8")
    recipe = tmp_path / "bom.yaml"
    recipe.write_bytes(codecs.BOM_UTF8 + plain.replace("\n", "\r\n").encode())
    assert load_recipe(recipe) == load_recipe(RECIPES / "frozen_reward.yaml")
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(codecs.BOM_UTF8 + b'{"prompt": "hi"}\r\n')
    assert read_rows(rows) == [{"prompt": "hi"}] == [row for _, row in read_jsonl(rows)]
    template = tmp_path / "judge.txt"
    body = read_text(pairwise.TEMPLATE)
    template.write_bytes(codecs.BOM_UTF8 + body.encode())
    assert read_template(template, ["prompt"]) == read_template(pairwise.TEMPLATE, ["prompt"])
    assert template_text("llm:m", template) == body
    template.write_bytes(codecs.BOM_UTF8 + b"# source\r\nWrite {num} tasks.\r\n")
    assert load_template(str(template)) == "Write {num} tasks."
    function = tmp_path / "mine.py"
    function.write_bytes(codecs.BOM_UTF8 + b"def verify(prompt, completion, row):\n    return 1.0\n")
    check_verifier(f"{function}:verify", {})
    for encoding, name in (("utf-16", "UTF-16"), ("utf-32", "UTF-32"), ("latin-1", "byte 1 is 0xe9")):
        recipe.write_bytes("é".encode(encoding))
        with pytest.raises(DataError, match=f"bom.yaml cannot be read as UTF-8 text .*{name}.*; save it as UTF-8"):
            read_text(recipe)
    ran = run_command("plan", recipe)
    assert ran.code == 1 and "recipe" in ran.said and "save it as UTF-8" in ran.said
