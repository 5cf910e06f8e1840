"""The store: addresses name what is asked, a manifest names what is finished."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path

import pytest

from posttrain.config import DPOConfig
from posttrain.core.errors import StorageError
from posttrain.store.artifacts import MANIFEST, ArtifactStore, damaged_files, read_manifest
from posttrain.store.fingerprint import address, differences, identity


def asked_of(name: str = "dpo", version: int = 1, inputs: dict | None = None, **config) -> dict:
    return identity(name, version, config, inputs or {})


def fill_with(text: str):
    def fill(out: Path) -> dict:
        (out / "rows.jsonl").write_text(text)
        return {"num_rows": 1}

    return fill


def test_address_does_not_depend_on_the_order_of_keys():
    first = address(asked_of(inputs={"model": "sft/1", "selected": ["select/1"]}, beta=0.1, seed=3))
    second = address(asked_of(inputs={"selected": ["select/1"], "model": "sft/1"}, seed=3, beta=0.1))
    assert first == second
    assert len(first) == 12


def test_address_does_not_depend_on_how_a_stage_runs():
    plain = DPOConfig(epochs=1, global_batch_size=8)
    other = DPOConfig(epochs=1, global_batch_size=8, device_batch_size=2, gradient_checkpointing=True, logging_steps=1)
    assert address(asked_of(training=plain)) == address(asked_of(training=other))


def test_address_changes_with_all_that_is_asked():
    plain = DPOConfig(epochs=1, beta=0.1)
    asked = [
        asked_of(training=plain, inputs={"selected": ["select/1", "select/2"]}),
        asked_of(training=DPOConfig(epochs=1, beta=0.2), inputs={"selected": ["select/1", "select/2"]}),
        asked_of(training=plain, inputs={"selected": ["select/2", "select/1"]}),
        asked_of(training=plain, inputs={"selected": ["select/1"]}),
        asked_of(training=plain, inputs={"selected": ["select/1", "select/2"]}, version=2),
        asked_of("sft", training=plain, inputs={"selected": ["select/1", "select/2"]}),
    ]
    assert len({address(item) for item in asked}) == len(asked)


def test_differences_name_the_fields_with_both_values():
    old = asked_of(inputs={"model": "sft/1"}, training={"beta": 0.1, "epochs": 1}, strengths=(0.6, 0.4))
    new = asked_of(inputs={"model": "sft/2"}, training={"beta": 0.05, "epochs": 1}, strengths=(0.6,))
    assert differences(old, new) == [
        ("config.training.beta", 0.1, 0.05),
        ("config.strengths.1", 0.4, None),
        ("inputs.model", "sft/1", "sft/2"),
    ]


def test_manifest_is_written_after_the_files_and_the_directory_is_renamed_into_place(tmp_path):
    store = ArtifactStore(tmp_path)
    asked = asked_of(beta=0.1)
    place = store.find(asked).path
    seen = []

    def fill(out: Path) -> dict:
        (out / "rows.jsonl").write_text("{}\n")
        seen.append((out / MANIFEST).exists() or place.exists())
        return {"num_rows": 1}

    built = store.build(asked, fill, {"device": "cpu"})
    assert seen == [False]
    assert built.path == place
    assert [path.name for path in place.parent.iterdir() if path.is_dir()] == [place.name]
    assert built.manifest["asked"] == asked
    assert built.manifest["how"] == {"device": "cpu"}
    assert built.metrics == {"num_rows": 1}
    assert list(built.manifest["files"]) == ["rows.jsonl"]


def test_what_is_there_is_not_built_again(tmp_path):
    store = ArtifactStore(tmp_path)
    store.build(asked_of(), fill_with("first"), {})
    found = store.build(asked_of(), fill_with("second"), {"device": "cuda"})
    assert (found.path / "rows.jsonl").read_text() == "first"


def test_directory_without_manifest_is_not_finished_and_is_built_anew(tmp_path):
    store = ArtifactStore(tmp_path)
    place = store.find(asked_of())
    place.path.mkdir(parents=True)
    (place.path / "rows.jsonl").write_text("half")
    assert store.find(asked_of()).manifest is None
    built = store.build(asked_of(), fill_with("whole"), {})
    assert (built.path / "rows.jsonl").read_text() == "whole"


def test_what_an_exception_left_is_found_again(tmp_path):
    store = ArtifactStore(tmp_path)

    def breaks(out: Path) -> dict:
        (out / "journal").write_text("3 of 10")
        raise RuntimeError("out of memory")

    def goes_on(out: Path) -> dict:
        return {"found": (out / "journal").read_text()}

    with pytest.raises(RuntimeError):
        store.build(asked_of(), breaks, {})
    assert store.find(asked_of()).manifest is None
    assert store.build(asked_of(), goes_on, {}).metrics == {"found": "3 of 10"}


def _build_and_count(root: str, counter: str) -> None:
    def fill(out: Path) -> dict:
        with open(counter, "a") as file:
            file.write("built\n")
        time.sleep(0.2)
        (out / "rows.jsonl").write_text("{}\n")
        return {}

    ArtifactStore(root).build(asked_of(beta=0.1), fill, {})


def test_two_processes_build_an_artifact_once(tmp_path):
    context = multiprocessing.get_context("fork")
    counter = tmp_path / "counter"
    workers = [context.Process(target=_build_and_count, args=(str(tmp_path), str(counter))) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert counter.read_text() == "built\n"


def test_damaged_files_names_changed_missing_and_added_files(tmp_path):
    def fill(out: Path) -> dict:
        (out / "model").mkdir()
        for name in ("kept", "changed", "missing", "model/weights"):
            (out / name).write_text("0123")
        return {}

    store = ArtifactStore(tmp_path)
    artifact = store.build(asked_of(), fill, {})
    assert damaged_files(artifact) == []
    (artifact.path / "changed").write_text("0124")
    (artifact.path / "model" / "weights").write_text("0123 ")
    (artifact.path / "missing").unlink()
    (artifact.path / "added").write_text("")
    assert damaged_files(artifact) == [
        f"{artifact.path}/missing: missing",
        f"{artifact.path}/added: not in the manifest",
        f"{artifact.path}/changed: content differs from the manifest",
        f"{artifact.path}/model/weights: content differs from the manifest",
    ]


def test_manifest_whose_question_has_another_address_is_damaged(tmp_path):
    store = ArtifactStore(tmp_path)
    artifact = store.build(asked_of(beta=0.1), fill_with("{}"), {})
    path = artifact.path / MANIFEST
    path.write_text(path.read_text().replace('"beta": 0.1', '"beta": 0.2'))
    assert damaged_files(store.find(asked_of(beta=0.1))) == [f"{path}: what it says was asked has another address"]


def test_broken_manifest_is_an_error_that_says_what_to_remove(tmp_path):
    store = ArtifactStore(tmp_path)
    artifact = store.build(asked_of(), fill_with("{}"), {})
    (artifact.path / MANIFEST).write_text("{")
    with pytest.raises(StorageError, match=f"remove {artifact.path}"):
        store.find(asked_of())


def test_nearest_differs_in_the_fewest_fields(tmp_path):
    store = ArtifactStore(tmp_path)
    far = store.build(asked_of(beta=0.1, epochs=1, seed=1), fill_with("{}"), {})
    near = store.build(asked_of(beta=0.1, epochs=2, seed=2), fill_with("{}"), {})
    store.build(asked_of("sft", beta=0.3, epochs=2, seed=2), fill_with("{}"), {})
    asked = asked_of(beta=0.3, epochs=2, seed=2)
    assert store.nearest(asked) == (near.address, [("config.beta", 0.1, 0.3)])
    assert store.nearest(asked, besides={near.address}) == (
        far.address,
        [("config.beta", 0.1, 0.3), ("config.epochs", 1, 2), ("config.seed", 1, 2)],
    )
    assert store.nearest(asked_of("average")) is None


def test_of_two_equally_near_artifacts_the_newest_is_named(tmp_path):
    store = ArtifactStore(tmp_path)
    older = store.build(asked_of(beta=0.1), fill_with("{}"), {})
    newer = store.build(asked_of(beta=0.2), fill_with("{}"), {})
    manifest = json.loads((older.path / MANIFEST).read_text())
    (older.path / MANIFEST).write_text(json.dumps(manifest | {"finished": newer.manifest["finished"] - 60}))
    assert store.nearest(asked_of(beta=0.3))[0] == newer.address


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"asked": 3, "metrics": {}, "files": {}, "finished": 1.0, "seconds": 1.0}']
)
def test_manifest_of_another_form_is_refused_with_its_place(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(StorageError, match="is no manifest: it lacks asked"):
        read_manifest(tmp_path)
