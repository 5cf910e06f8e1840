"""Build the index of a file of rows, when its artifact is finished or when a trace finds none."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from posttrain.core.atomic import no_room_as_storage_error
from posttrain.core.errors import StorageError
from posttrain.lineage.answer_files import AnswerWriter, answers_path
from posttrain.lineage.answers import makes_model
from posttrain.lineage.row_index import changed, index_path, open_index
from posttrain.store.artifacts import Artifact

ROWS_AT_ONCE = 20_000
_TABLES = """
CREATE TABLE spans (prompt_id TEXT, offset INTEGER, length INTEGER, PRIMARY KEY (prompt_id, offset)) WITHOUT ROWID;
CREATE TABLE kinds (kind INTEGER PRIMARY KEY, role TEXT, source TEXT, round INTEGER, model TEXT, answers INTEGER);
CREATE TABLE models (model TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE totals (training_rows INTEGER);
CREATE TEMP TABLE found (prompt_id TEXT, offset INTEGER, length INTEGER);
"""
_FINISH = """
INSERT INTO spans SELECT * FROM found ORDER BY prompt_id, offset;
DROP TABLE found;
"""


def build_index(root: Path, data: Path, sha256: str) -> None:
    """Read a file once and write its index, whole or not at all.

    Memory does not grow with the file: SQLite sorts what is larger than its cache on disk.

    Raises:
        StorageError: The file's content is not what the manifest says, or there is no room.
    """
    if not data.is_file():
        raise changed(data)
    path = index_path(root, data, sha256)
    with no_room_as_storage_error(path, "The artifacts are whole."):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=path.parent) as folder:
            work = Path(folder) / "index"
            answers = AnswerWriter(data.name, Path(folder) / "answers")
            try:
                with contextlib.closing(sqlite3.connect(work, isolation_level=None)) as connection:
                    connection.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {_TABLES}")
                    found = _fill(connection, data, answers)
                    connection.executescript(f"BEGIN; {_FINISH} COMMIT;")
            except sqlite3.OperationalError as error:
                raise StorageError(
                    f"no index of {data} can be written to {path.parent} ({error}); free some space"
                ) from error
            if found != sha256:
                raise changed(data)
            if answers.path.exists():  # first, so that an index that is there has its answers
                _put(answers.path, answers_path(path))
            _put(work, path)


def _put(work: Path, target: Path) -> None:
    with open(work, "rb") as file:
        os.fsync(file.fileno())
    os.replace(work, target)


def row_files(artifact: Artifact) -> Iterator[tuple[Path, str]]:
    """Yield path and SHA-256 of an artifact's files of rows; what a training logs is none."""
    if artifact.manifest is None or makes_model(artifact.stage):
        return
    for name, sha256 in artifact.manifest["files"].items():
        if name.endswith(".jsonl") and "/" not in name:
            yield artifact.path / name, sha256


def index_rows(root: Path, artifact: Artifact) -> None:
    """Build the indexes of a finished artifact, so that nobody waits for them later."""
    for data, sha256 in row_files(artifact):
        if open_index(root, data, sha256) is None:
            build_index(root, data, sha256)


def _fill(connection: sqlite3.Connection, data: Path, answers: AnswerWriter) -> str:
    """Put what a file holds into the tables, and its answers to their writer; return the SHA-256 of its content."""
    content = hashlib.sha256()
    models: set[Any] = set()
    spans: list[tuple[str, int, int]] = []
    with open(data, "rb") as file:
        lines = _lines(file, content)
        while block := list(islice(lines, ROWS_AT_ONCE)):
            for offset, length, row in block:
                name = row["prompt_id"]
                if spans and spans[-1][0] == name and sum(spans[-1][1:]) == offset:  # samples of one prompt in a row
                    spans[-1] = name, spans[-1][1], spans[-1][2] + length
                else:
                    spans.append((name, offset, length))
                answers.add(offset, row)
                models.add(row.get("model") if isinstance(row.get("model"), str) else None)
            connection.execute("BEGIN")
            connection.executemany("INSERT INTO found VALUES (?, ?, ?)", spans)
            connection.execute("COMMIT")
            spans = []
    answers.close()
    connection.executemany("INSERT INTO kinds VALUES (?, ?, ?, ?, ?, ?)", answers.kinds)
    connection.execute("INSERT INTO totals VALUES (?)", (answers.num_rows,))
    connection.executemany("INSERT INTO models VALUES (?)", [(model,) for model in sorted(models - {None})])
    return content.hexdigest()


def _lines(file: Any, content: Any) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Stream (offset, length, row) of each row with a prompt id; half a surrogate pair is none: nobody can type it."""
    offset = 0
    for line in file:
        content.update(line)
        try:
            row = json.loads(line)  # three times as fast as what checks rows of other people, which these are not
        except ValueError:
            row = None
        if isinstance(row, dict) and _is_text(row.get("prompt_id")):
            yield offset, len(line), row
        offset += len(line)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and (value.isascii() or value.encode("utf-8", "ignore").decode("utf-8") == value)
