"""What a verifier said so far, kept on disk: a stage that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain.core.journal import Journal
from reward.errors import RewardError
from reward.ids import Row


class Record:
    """Outcomes by row, in a journal. Use as a context manager.

    Outcomes of another question (another verifier, other options) are dropped, or where they are costly refused; errors
    are dropped, so that a rerun tries again. A row is known by its content, so that rows may be added or taken away
    between runs.

    Args:
        path: the journal; None keeps nothing.
        asked: what the verifier or judge is, with its options, as JSON.
        is_costly: refuse outcomes of another question; its fields are then those of a JSON object.

    Raises:
        RewardError: the journal holds costly outcomes of another question.
    """

    def __init__(self, path: Path | None, asked: str, is_costly: bool = False) -> None:
        self._journal: Journal | None = None
        self._known: dict[str, Row] = {}
        if path is None:
            return
        journal = Journal(path)
        if journal.rows and journal.rows[0].get("asked") != asked:
            changed = differences(json.loads(str(journal.rows[0].get("asked"))), json.loads(asked)) if is_costly else []
            if changed:
                journal.close()
                raise RewardError(
                    f"{path} holds the replies of another judge ({'; '.join(changed)}) - give another folder, ask the "
                    "same judge again, or remove this file"
                )
            if not is_costly:
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


def differences(there: Any, now: Any, name: str = "") -> list[str]:
    """List the fields in which two askings differ, with both values; what only one of them knows is no difference."""
    if isinstance(there, Mapping) and isinstance(now, Mapping):
        shared = [key for key in there if key in now]
        return [line for key in shared for line in differences(there[key], now[key], f"{name}.{key}" if name else key)]
    return [] if there == now else [f"{name}: {_short(there)} there, {_short(now)} now"]


def _short(value: Any, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"


def _key(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:32]
