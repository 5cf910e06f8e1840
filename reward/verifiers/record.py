"""What a verifier said so far, kept on disk: a stage that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from posttrain.core.journal import Journal
from reward.ids import Row


class Record:
    """Outcomes by row, in a journal. Use as a context manager.

    Outcomes of another question (another verifier, other options) are dropped; so are errors, which a rerun tries
    again. A row is known by its content, so that rows may be added or taken away between runs.

    Args:
        path: the journal; None keeps nothing.
        asked: what the verifier is, with its options.
    """

    def __init__(self, path: Path | None, asked: str) -> None:
        self._journal: Journal | None = None
        self._known: dict[str, Row] = {}
        if path is None:
            return
        journal = Journal(path)
        if journal.rows and journal.rows[0].get("asked") != asked:
            journal.close()
            path.unlink()
            journal = Journal(path)
        if not journal.rows:
            journal.append([{"asked": asked}])
        self._known = {row["key"]: row["outcome"] for row in journal.rows[1:] if "error" not in row["outcome"]}
        self._journal = journal

    def known(self, line: bytes) -> dict[str, Any] | None:
        """Return the outcome of a row, None where it has none yet."""
        return self._known.get(_key(line)) if self._known else None

    def add(self, line: bytes, outcome: dict[str, Any]) -> None:
        """Keep an outcome."""
        if self._journal is not None:
            self._journal.append([{"key": _key(line), "outcome": outcome}])

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *_: object) -> None:
        if self._journal is not None:
            self._journal.close()


def _key(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:32]
