"""Where each prompt's rows stand in a file: an index beside the artifacts, so that a look-up reads no whole file.

An index belongs to the content of one file: its name holds the SHA-256 that the artifact's manifest names, so it can
never be stale. It lies in `artifacts/.lineage/`, outside the artifacts, whose bytes and manifests stay as they are. The
folder may be removed at any time; what is missing is built again.

SQLite keeps rows sorted by prompt id and answers in microseconds, and Python comes with it. pyarrow would take a third
of a second to load, DuckDB and LMDB would be further dependencies, and sorted arrays cannot look for a prefix.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from posttrain.core.atomic import no_room_as_storage_error
from posttrain.core.errors import StorageError
from posttrain.core.jsonl import decode_row
from posttrain.lineage.answers import Answer, answers_of, makes_model
from posttrain.store.artifacts import Artifact

FOLDER = ".lineage"
VERSION = 1
ROWS_AT_ONCE = 20_000
_TABLES = """
CREATE TABLE spans (prompt_id TEXT, offset INTEGER, length INTEGER, PRIMARY KEY (prompt_id, offset)) WITHOUT ROWID;
CREATE TABLE answers (offset INTEGER, prompt_id TEXT, role TEXT, sample_index INTEGER, source TEXT, round INTEGER,
                      model TEXT, score REAL);
CREATE TABLE models (model TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE counts (role TEXT, source TEXT, round INTEGER, model TEXT, answers INTEGER);
CREATE TABLE totals (training_rows INTEGER);
CREATE TEMP TABLE found (prompt_id TEXT, offset INTEGER, length INTEGER);
"""
_FINISH = """
INSERT INTO spans SELECT * FROM found ORDER BY prompt_id, offset;
INSERT INTO counts SELECT role, source, round, model, COUNT(*) FROM answers GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4;
INSERT INTO totals SELECT COUNT(DISTINCT offset) FROM answers;
DROP TABLE found;
"""


class RowIndex:
    """The index of one file of rows.

    It is opened for each question and closed again: a long run has more files than a process may hold open.

    Attributes:
        data: The file whose rows it names.
    """

    def __init__(self, path: Path, data: Path) -> None:
        self.data = data
        # Nobody changes a finished index, so readers need no locks, which a network file system may not have.
        self._address = f"file:{quote(str(path.absolute()))}?immutable=1"

    def rows(self, prompt_id: str) -> list[dict[str, Any]]:
        """Return the rows of a prompt, in the order of the file.

        Raises:
            StorageError: The file has changed since it was finished.
        """
        spans = self._ask("SELECT offset, length FROM spans WHERE prompt_id = ? ORDER BY offset", prompt_id)
        rows: list[dict[str, Any]] = []
        if not spans:
            return rows
        with open(self.data, "rb", buffering=0) as file:
            for offset, length in spans:
                file.seek(offset)
                for line in file.read(length).splitlines():
                    row = decode_row(line)
                    if not isinstance(row, dict) or row.get("prompt_id") != prompt_id:
                        raise _changed(self.data)
                    rows.append(row)
        return rows

    def has(self, prompt_id: str) -> bool:
        """Tell whether the file has rows of a prompt."""
        return bool(self._ask("SELECT 1 FROM spans WHERE prompt_id = ? LIMIT 1", prompt_id))

    def ids_with_prefix(self, prefix: str, limit: int) -> list[str]:
        """Return at most `limit` prompt ids that begin with `prefix`, in alphabetical order."""
        asked = "SELECT DISTINCT prompt_id FROM spans WHERE prompt_id >= ? AND prompt_id < ? LIMIT ?"
        return [row[0] for row in self._ask(asked, prefix, prefix + "\U0010ffff", limit)]

    def ids_near(self, prompt_id: str, limit: int) -> list[str]:
        """Return at most `limit` prompt ids before and as many after the place where this one would stand."""
        before = "SELECT DISTINCT prompt_id FROM spans WHERE prompt_id < ? ORDER BY prompt_id DESC LIMIT ?"
        after = "SELECT DISTINCT prompt_id FROM spans WHERE prompt_id > ? ORDER BY prompt_id LIMIT ?"
        return [row[0] for asked in (before, after) for row in self._ask(asked, prompt_id, limit)]

    def ids_ending_with(self, ending: str, limit: int) -> list[str]:
        """Return at most `limit` prompt ids with this ending; reads all ids."""
        asked = "SELECT DISTINCT prompt_id FROM spans WHERE substr(prompt_id, -?) = ? LIMIT ?"
        return [row[0] for row in self._ask(asked, len(ending), ending, limit)]

    @property
    def models(self) -> list[str]:
        """Return what names the models that wrote the rows."""
        return [row[0] for row in self._ask("SELECT model FROM models")]

    @property
    def counts(self) -> list[tuple[str, str | None, int | None, str | None, int]]:
        """Return (role, source, round, model, answers); nothing where no stage trains on such files."""
        return self._ask("SELECT role, source, round, model, answers FROM counts")

    @property
    def num_training_rows(self) -> int:
        """Return the rows that hold answers to train on; a pair is one row."""
        return int(self._ask("SELECT training_rows FROM totals")[0][0])

    def answers(self) -> Iterator[tuple[int, Answer]]:
        """Stream (offset of the row, answer) of each answer to train on, in the order of the file."""
        with contextlib.closing(self._connect()) as connection:
            for offset, *values in connection.execute("SELECT * FROM answers ORDER BY rowid"):
                yield offset, Answer(*values)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._address, uri=True)

    def _ask(self, question: str, *values: Any) -> list[tuple[Any, ...]]:
        with contextlib.closing(self._connect()) as connection:
            return connection.execute(question, values).fetchall()


def open_index(root: Path, data: Path, sha256: str) -> RowIndex | None:
    """Return the index of a file, None where it has to be built.

    Args:
        root: The store's root.
        data: The file.
        sha256: Of its content, as the manifest says.
    """
    path = _place(root, data, sha256)
    return RowIndex(path, data) if path.is_file() else None


def build_index(root: Path, data: Path, sha256: str) -> None:
    """Read a file once and write its index, whole or not at all.

    Memory does not grow with the file: SQLite sorts what is larger than its cache on disk.

    Raises:
        StorageError: The file's content is not what the manifest says, or there is no room.
    """
    path = _place(root, data, sha256)
    with no_room_as_storage_error(path, "The artifacts are whole."):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=path.parent) as folder:
            work = Path(folder) / "index"
            try:
                with contextlib.closing(sqlite3.connect(work, isolation_level=None)) as connection:
                    connection.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {_TABLES}")
                    found = _fill(connection, data)
                    connection.executescript(f"BEGIN; {_FINISH} COMMIT;")
            except sqlite3.OperationalError as error:
                raise StorageError(
                    f"no index of {data} can be written to {path.parent} ({error}); free some space"
                ) from error
            if found != sha256:
                raise _changed(data)
            with open(work, "rb") as file:
                os.fsync(file.fileno())
            os.replace(work, path)


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


def _place(root: Path, data: Path, sha256: str) -> Path:
    # The name is in it because it says what the rows are for: one content can be scored.jsonl here and sft.jsonl there.
    return root / "artifacts" / FOLDER / f"{sha256[:24]}.{data.stem}.{VERSION}.sqlite"


def _fill(connection: sqlite3.Connection, data: Path) -> str:
    """Put a file's spans and answers into the tables; return the SHA-256 of its content."""
    content = hashlib.sha256()
    models: set[str] = set()
    spans: list[tuple[str, int, int]] = []
    answers: list[tuple[Any, ...]] = []
    with open(data, "rb") as file:
        lines = _lines(file, content)
        while block := list(islice(lines, ROWS_AT_ONCE)):
            for offset, length, row in block:
                name = row["prompt_id"]
                if spans and spans[-1][0] == name and sum(spans[-1][1:]) == offset:  # samples of one prompt in a row
                    spans[-1] = name, spans[-1][1], spans[-1][2] + length
                else:
                    spans.append((name, offset, length))
                found = answers_of(data.name, row)
                answers += [(offset, *answer) for answer in found]
                models.update(_models(row, found))
            connection.execute("BEGIN")
            connection.executemany("INSERT INTO found VALUES (?, ?, ?)", spans)
            connection.executemany("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?)", answers)
            connection.execute("COMMIT")
            spans, answers = [], []
    connection.executemany("INSERT INTO models VALUES (?)", [(model,) for model in sorted(models)])
    return content.hexdigest()


def _lines(file: Any, content: Any) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Stream (offset, length, row) of each row with a prompt id; half a surrogate pair is none: nobody can type it."""
    offset = 0
    for line in file:
        content.update(line)
        row = decode_row(line)
        if isinstance(row, dict) and _is_text(row.get("prompt_id")):
            yield offset, len(line), row
        offset += len(line)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and (value.isascii() or value.encode("utf-8", "ignore").decode("utf-8") == value)


def _models(row: Mapping[str, Any], answers: list[Answer]) -> set[str]:
    named = {answer.model for answer in answers} | {row.get("model")}
    return {model for model in named if isinstance(model, str)}


def _changed(data: Path) -> StorageError:
    return StorageError(
        f"{data} is not what its manifest says: it was changed after it was finished. `posttrain verify` names all "
        "such files; remove the artifact's folder and run the recipe again to have it made anew"
    )
