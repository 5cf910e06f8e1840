"""The index of rows: right, apart from the artifacts, never stale, and read instead of the file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from made_run import MadeRun, make, sampled

from posttrain.core.errors import StorageError
from posttrain.core.files import sha256_file, write_jsonl
from posttrain.lineage.graph import Graph
from posttrain.lineage.indexing import build_index, index_rows
from posttrain.lineage.names import find_row
from posttrain.lineage.row_index import open_index
from posttrain.lineage.story import tell_story
from posttrain.store.artifacts import damaged_files

NUM_PROMPTS, NUM_SAMPLES = 10_000, 5


def bytes_read() -> int:
    """Return the bytes that this process has read from files, whatever the cache gave."""
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> MadeRun:
    """A run with 50,000 samples."""
    made = MadeRun(tmp_path_factory.mktemp("large"))
    base = made.add("base/model", "practice_model")
    rows = [row for n in range(NUM_PROMPTS) for row in sampled(f"{n:06}-{'x' * 60}", "say " * 40, "m", 1, NUM_SAMPLES)]
    samples = made.add(
        "round_1/completions/policy", "sample", {"model": base}, {"completions": rows}, sampling={}, round=1
    )
    index_rows(made.store.root, samples)
    return made


def test_a_trace_reads_less_than_a_hundredth_of_the_file(large):
    (data,) = large.store.root.glob("artifacts/sample/*/completions.jsonl")
    assert data.stat().st_size > 15_000_000
    before = bytes_read()
    graph = Graph(large.run())
    prompt_id, _ = find_row(graph, "004711")
    (sampling,) = tell_story(graph, prompt_id, None)["samplings"]
    assert len(sampling["samples"]) == NUM_SAMPLES
    assert bytes_read() - before < data.stat().st_size / 100


def test_samples_of_a_prompt_that_stand_apart_are_all_found(tmp_path):
    names = ("p", "q", "ä:1")
    rows = [sampled(name, name, "m", 1)[index] for index in (0, 1, 2) for name in names]
    made = MadeRun(tmp_path)
    made.add("round_1/completions/policy", "sample", files={"completions": rows}, sampling={}, round=1)
    (index,) = [index for files in Graph(made.run()).indexes.values() for index in files.values()]
    for name in names:
        assert [row["sample_index"] for row in index.rows(name)] == [0, 1, 2]
    assert index.rows("r") == []
    assert index.ids_with_prefix("", 9) == ["p", "q", "ä:1"]


def test_artifacts_stay_as_their_manifests_say_and_a_lost_index_is_built_again(tmp_path):
    made = make(tmp_path)
    graph = Graph(made.run())
    told = tell_story(graph, "aaaaaa01", None)
    indexes = tmp_path / "artifacts" / ".lineage"
    names = sorted(path.name for path in indexes.iterdir())
    assert len(names) == len({path.name for path in indexes.iterdir()}) > 10
    assert all(damaged_files(node.artifact) == [] for node in graph.nodes.values())
    shutil.rmtree(indexes)
    assert tell_story(Graph(made.run()), "aaaaaa01", None) == told
    assert sorted(path.name for path in indexes.iterdir()) == names


def test_an_artifact_made_anew_with_other_rows_has_another_index(tmp_path):
    made = MadeRun(tmp_path)
    first = made.add("a", "sample", files={"completions": sampled("first", "t", "m", 1)}, sampling={}, round=1)
    assert find_row(Graph(made.run()), "first") == ("first", None)
    shutil.rmtree(first.path)
    made.record["stages"].clear()
    made.add("a", "sample", files={"completions": sampled("second", "t", "m", 1)}, sampling={}, round=1)
    graph = Graph(made.run())
    assert find_row(graph, "second") == ("second", None)
    assert tell_story(graph, "first", None)["samplings"] == []


def test_a_file_that_was_changed_is_refused_not_misread(tmp_path):
    data = tmp_path / "completions.jsonl"
    write_jsonl(data, sampled("first", "t", "m", 1))
    with pytest.raises(StorageError, match="was changed after it was finished"):
        build_index(tmp_path, data, "0" * 64)
    assert list((tmp_path / "artifacts" / ".lineage").iterdir()) == []
    sha256 = sha256_file(data)
    build_index(tmp_path, data, sha256)
    data.write_bytes(data.read_bytes().replace(b"first", b"frist"))
    index = open_index(tmp_path, data, sha256)
    assert index is not None
    with pytest.raises(StorageError, match="verify"):
        index.rows("first")
    data.unlink()
    for look in (lambda: index.rows("first"), lambda: build_index(tmp_path, data, "0" * 64)):
        with pytest.raises(StorageError, match="verify"):
            look()


def test_rows_without_an_id_and_a_last_line_without_an_end_do_no_harm(tmp_path):
    data = tmp_path / "rejects.jsonl"
    lines = [
        '{"prompt_id": null, "line": 1}',
        "",
        '{"prompt_id": "p", "line": 2}',
        r'{"prompt_id": "\ud800"}',
        '{"prompt_id": "q"}',
    ]
    data.write_text("\n".join(lines))
    build_index(tmp_path, data, sha256_file(data))
    index = open_index(tmp_path, data, sha256_file(data))
    assert index is not None
    assert (index.rows("p"), index.rows("q")) == ([{"prompt_id": "p", "line": 2}], [{"prompt_id": "q"}])


def test_trace_loads_nothing_heavy(made):
    heavy = ("torch", "transformers", "datasets", "trl", "pyarrow", "numpy", "pandas", "scipy")
    code = (
        "import sys\nfrom posttrain.commands import lineage\nfrom posttrain.lineage import names, story, checkpoint\n"
        f"print(*sorted(set({heavy!r}) & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, env=dict(os.environ)
    )
    assert (result.returncode, result.stdout.split()) == (0, []), result.stderr
