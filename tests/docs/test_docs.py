"""The documentation names what is there, and its examples are what the code reads."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from posttrain.core.formats import check_rows
from posttrain.core.prompts import read_prompts
from posttrain.reference import reference

ROOT = Path(__file__).parents[2]
# A log and a changelog speak of the past, and may name what is gone.
PAGES = sorted(
    page
    for folder in ("", "docs", "recipes", "benchmarks")
    for page in (ROOT / folder).glob("*.md")
    if page.name not in ("LOG.md", "CHANGELOG.md")
)
TOPICS = ("artifacts", "formats", "papers", "recipes")
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(?:#[^)\s]*)?\)")
FILE = re.compile(
    r"(?<![\w/.<-])((?:posttrain|synth|reward|tests|docs|recipes|benchmarks)/[\w./-]*\w\.(?:py|md|yaml|txt))\b"
)
FOLDER = re.compile(r"(?<![\w/.<-])((?:posttrain|synth|reward|tests|docs)/(?:\w+/)*)(?![\w.<])")
FUNCTION = re.compile(r"((?:`\w+`(?:, )?)+) in ([\w/]+\.py)")
EXAMPLE = re.compile(r"^```json ?(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_the_pages_are_found():
    expected = {"CONTRIBUTING.md", "recipes/README.md", *(f"docs/{topic}.md" for topic in TOPICS)}
    assert expected <= {name(page) for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path):
    broken = [link for link in LINK.findall(page.read_text("utf-8")) if not (page.parent / link).exists()]
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_and_folders_that_are_named_exist(page: Path):
    text = page.read_text("utf-8")
    missing = [path for path in FILE.findall(text) + FOLDER.findall(text) if not (ROOT / path).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_functions_that_are_named_stand_in_the_files_named(page: Path):
    for names, path in FUNCTION.findall(page.read_text("utf-8")):
        code = (ROOT / path).read_text("utf-8")
        for function in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^\s*(def|class) {function}\b|^{function}\b.* = ", code, re.MULTILINE), (function, path)


def test_papers_names_functions():
    found = FUNCTION.findall((ROOT / "docs" / "papers.md").read_text("utf-8"))
    assert len(found) >= 25


def test_the_reference_of_recipes_is_what_the_schema_says():
    committed = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    assert committed == reference(), "run: python -m posttrain.reference > docs/recipes.md"


def test_the_reference_explains_every_field():
    rows = [line for line in reference().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert all(len(line.split(" | ")) >= 4 and line.split(" | ")[3].strip(" |") for line in rows)
    assert "| `device` | text | `auto` | *how* " in reference()
    assert "| `beta` | float > 0 | `0.1` | Strength" in reference()


def examples(kind: str) -> list[dict]:
    text = (ROOT / "docs" / "formats.md").read_text("utf-8")
    return [json.loads(line) for tag, block in EXAMPLE.findall(text) if tag == kind for line in block.splitlines()]


@pytest.mark.parametrize("kind", ["prompt", "completion", "preference", "ranking", "messages"])
def test_examples_of_formats_are_valid(kind: str):
    rows = examples(kind)
    assert rows
    check_rows(rows, kind, "docs/formats.md")


def test_the_example_of_an_id_is_the_hash_of_its_prompt(tmp_path: Path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "Name a river.", "reference": "Elbe"}\n')
    assert read_prompts(path)[0] == [examples("prompt")[1]]


def test_other_examples_are_json():
    assert len(examples("")) >= 4
