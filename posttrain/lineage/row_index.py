"""Where each prompt's rows stand in a file: an index beside the artifacts, so that a look-up reads no whole file.

An index belongs to the content of one file: its name holds the SHA-256 that the artifact's manifest names, so it can
never be stale. It lies in `artifacts/.lineage/`, outside the artifacts, whose bytes and manifests stay as they are. The
folder may be removed at any time; what is missing is built again.

SQLite keeps rows sorted by prompt id and answers in microseconds, and Python comes with it. pyarrow would take a third
of a second to load, DuckDB and LMDB would be further dependencies, and sorted arrays cannot look for a prefix.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

from posttrain.core.errors import StorageError
from posttrain.core.jsonl import decode_row

FOLDER = ".lineage"
VERSION = 1
Kind = tuple[str, str | None, int | None, str | None, int]
"""(role, source, round, model, answers): what answers have in common, and how many there are."""


class RowIndex:
    """The index of one file of rows.

    It is opened for each question and closed again: a long run has more files than a process may hold open.

    Attributes:
        path: The index.
        data: The file whose rows it names.
    """

    def __init__(self, path: Path, data: Path) -> None:
        self.path = path
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
        if not self.data.is_file():
            raise changed(self.data)
        with open(self.data, "rb", buffering=0) as file:
            for offset, length in spans:
                file.seek(offset)
                for line in file.read(length).splitlines():
                    row = decode_row(line)
                    if not isinstance(row, dict) or row.get("prompt_id") != prompt_id:
                        raise changed(self.data)
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
    def kinds(self) -> list[Kind]:
        """Return the kinds of answers to train on, by their numbers; none where no stage trains on such files."""
        return self._ask("SELECT role, source, round, model, answers FROM kinds ORDER BY kind")

    @property
    def num_training_rows(self) -> int:
        """Return the rows that hold answers to train on; a pair is one row."""
        return int(self._ask("SELECT training_rows FROM totals")[0][0])

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
    path = index_path(root, data, sha256)
    return RowIndex(path, data) if path.is_file() else None


def index_path(root: Path, data: Path, sha256: str) -> Path:
    """Return where the index of a file lies, by its content."""
    # The name is in it because it says what the rows are for: one content can be scored.jsonl here and sft.jsonl there.
    return root / "artifacts" / FOLDER / f"{sha256[:24]}.{data.stem}.{VERSION}.sqlite"


def changed(data: Path) -> StorageError:
    """Return what to tell of a file that is not what its manifest says."""
    return StorageError(
        f"{data} is not what its manifest says: it was changed after it was finished. `posttrain verify` names all "
        "such files; remove the artifact's folder and run the recipe again to have it made anew"
    )
