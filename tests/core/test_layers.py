"""The floors: what may import what, and what must stay light."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("posttrain", "synth", "reward")
HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "ray", "vllm", "pandas", "pyarrow", "scipy")
LIGHT = [
    *("posttrain", "synth", "reward"),
    *("posttrain.core.errors", "posttrain.core.atomic", "posttrain.core.jsonl", "posttrain.core.journal"),
    *("posttrain.core.files", "posttrain.core.formats", "posttrain.core.prompts", "posttrain.core.model_files"),
    *("posttrain.config", "posttrain.recipe", "posttrain.rounds", "posttrain.stages", "posttrain.cli"),
    "posttrain.store",
]


def imports_of(path, package):
    """All modules that a file imports, anywhere in it, relative ones resolved."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in OURS}


def files_of(package):
    folder = ROOT / package.replace(".", "/")
    return [(path, ".".join(path.relative_to(ROOT).parent.parts)) for path in sorted(folder.rglob("*.py"))]


def inside(name, package):
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize(
    ("package", "allowed", "least"),
    [
        ("posttrain.core", ("posttrain.core",), 8),
        ("synth", ("synth", "posttrain.core"), 5),
        ("reward", ("reward", "posttrain.core"), 3),
    ],
)
def test_a_floor_imports_only_what_lies_below(package, allowed, least):
    files = files_of(package)
    assert len(files) >= least
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path, owner in files
        for name in sorted(imports_of(path, owner))
        # `from posttrain import core` names posttrain itself on the way
        if not any(inside(name, floor) for floor in allowed) and name != "posttrain"
    ]
    assert wrong == []


def test_the_reader_of_imports_sees_every_form(tmp_path):
    path = tmp_path / "example.py"
    path.write_text(
        "import posttrain.train, json\nfrom synth import filters\nfrom . import sft\nfrom ..core import chat\n"
        "def late():\n    from reward.score import score_rows\n"
    )
    assert imports_of(path, "posttrain.train") >= {
        *("posttrain.train", "synth.filters", "posttrain.train.sft", "posttrain.core.chat", "reward.score")
    }


def test_what_reads_and_plans_stays_light():
    there = [
        name
        for name in LIGHT
        if (ROOT / name.replace(".", "/")).is_dir() or (ROOT / (name.replace(".", "/") + ".py")).is_file()
    ]
    assert len(there) >= 8
    code = f"import sys, {', '.join(there)}\nprint(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


@pytest.mark.parametrize("package", ["posttrain.core", "synth", "reward"])
def test_a_package_says_what_it_is(package):
    text = (ROOT / package.replace(".", "/") / "__init__.py").read_text("utf-8")
    assert ast.get_docstring(ast.parse(text))


def test_messages_become_ids_in_one_place():
    """One text, one token sequence: nobody but the core renders templates or calls a tokenizer."""
    calls = re.compile(r"\.apply_chat_template\(|(?<!\w)tokenizer\(")
    found = {
        str(path.relative_to(ROOT))
        for package in OURS
        for path, _ in files_of(package)
        if calls.search(path.read_text())
    }
    # The probe of an engine also takes tokenizers without a template, on a text of its own; tokenizers.py compares
    # tokenizers with their files.
    core = {f"posttrain/core/{name}.py" for name in ("templates", "control_tokens", "tokenizers")}
    assert found == {*core, "synth/engines/probe.py"}
