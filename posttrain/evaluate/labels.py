"""Labels from people or from another tool, as verdicts."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

from posttrain.core.errors import DataError, Faults
from posttrain.core.files import read_jsonl_lenient, read_rows
from posttrain.evaluate.win_rate import is_preference

Row = dict[str, Any]


def read_labels(path: str | PathLike[str]) -> list[Row]:
    """Read labels: rows of ``prompt_id`` and ``preference``, 1 where A is better.

    Numbers between 0 and 1 count as they are; null is a label that cannot be read. Several labels of one prompt are
    several people's; a win rate averages them.

    Raises:
        DataError: lists every faulty line at once, or the file holds no labels.
    """
    faults = Faults(str(path))
    labels = []
    for number, row in _numbered(path):
        if isinstance(row, str):
            faults.add(f"line {number}: {row}")
            continue
        faults_before = len(faults)
        if not isinstance(row.get("prompt_id"), str) or not row["prompt_id"]:
            faults.add(f"line {number}: prompt_id is {_shown(row, 'prompt_id')}; expected the id of a prompt, as text")
        if "preference" not in row or not (row["preference"] is None or is_preference(row["preference"])):
            shown = _shown(row, "preference")
            faults.add(f"line {number}: preference is {shown}; expected a number from 0 to 1, 1 where A is better")
        if len(faults) == faults_before:
            labels.append(row)
    faults.raise_if_any(DataError)
    if not labels:
        raise DataError(f'{path} holds no labels; expected lines of {{"prompt_id": …, "preference": 0 to 1}}')
    return labels


def _numbered(path: str | PathLike[str]) -> list[tuple[int, Row | str]]:
    if Path(path).suffix == ".parquet":
        return list(enumerate(read_rows(path), start=1))
    return list(read_jsonl_lenient(path))


def _shown(row: Row, key: str) -> str:
    return json.dumps(row[key], ensure_ascii=False, default=str) if key in row else "missing"
