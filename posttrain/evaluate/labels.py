"""Labels from people or from another tool, as verdicts."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from posttrain.core.errors import DataError, Faults
from posttrain.core.files import read_jsonl_lenient, read_rows
from posttrain.evaluate.pairing import mirrored
from posttrain.evaluate.win_rate import is_preference

Row = dict[str, Any]

log = logging.getLogger(__name__)


def read_labels(path: str | PathLike[str]) -> list[Row]:
    """Read labels, as `read_numbered_labels` does, without their lines."""
    return list(read_numbered_labels(path).values())


def read_numbered_labels(path: str | PathLike[str]) -> dict[int, Row]:
    """Read labels by line: rows of ``prompt_id`` and ``preference``, perhaps of ``a`` and ``b``, names of models.

    A preference of 1 says that A is better, and numbers between 0 and 1 count as they are; null is a label that cannot
    be read. Several labels of one prompt are several people's; a win rate averages them.

    Raises:
        DataError: lists every faulty line at once, or the file holds no labels.
    """
    faults = Faults(str(path))
    labels: dict[int, Row] = {}
    for number, row in numbered_rows(path):
        if isinstance(row, str):
            faults.add(f"line {number}: {row}")
            continue
        faults_before = len(faults)
        if not isinstance(row.get("prompt_id"), str) or not row["prompt_id"]:
            faults.add(f"line {number}: prompt_id is {shown(row, 'prompt_id')}; expected the id of a prompt, as text")
        if "preference" not in row or not (row["preference"] is None or is_preference(row["preference"])):
            given = shown(row, "preference")
            faults.add(f"line {number}: preference is {given}; expected a number from 0 to 1, 1 where A is better")
        if ("a" in row) != ("b" in row) or not all(isinstance(row.get(side, ""), str) for side in "ab"):
            names = f"a is {shown(row, 'a')}, b is {shown(row, 'b')}"
            faults.add(f"line {number}: {names}; expected the names of both models, or neither")
        for side in ("model_a", "model_b"):
            if not isinstance(row.get(side), str | None):
                faults.add(f"line {number}: {side} is {shown(row, side)}; expected the content of a model, as text")
        for side in ("length_a", "length_b"):
            if not _is_length(row.get(side)):
                faults.add(f"line {number}: {side} is {shown(row, side)}; expected a number of characters, or nothing")
        if len(faults) == faults_before:
            labels[number] = row
    faults.raise_if_any(DataError)
    if not labels:
        raise DataError(f'{path} holds no labels; expected lines of {{"prompt_id": …, "preference": 0 to 1}}')
    return labels


def _is_length(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (is_number and 0 <= value < float("inf"))  # type: ignore[operator]


def check_names(labels: Mapping[int, Row], known: Collection[str], where: str) -> None:
    """Check that every label, by its line, names two models among those known, as a recipe's judge needs.

    Raises:
        DataError: lists the labels that do not.
    """
    faults = Faults(where)
    for number, label in labels.items():
        if (fault := name_fault(label, known)) is not None:
            faults.add(f"line {number}: {fault}")
    faults.raise_if_any(DataError)


def name_fault(label: Row, known: Collection[str]) -> str | None:
    """Say what is wrong with the names of models in a label; None where nothing is."""
    names = [label[side] for side in "ab" if side in label]
    unknown = [name for name in names if name not in known]
    if len(names) == 2 and names[0] != names[1] and not unknown:
        return None
    what = f"a and b are both {names[0]}" if names else "it has no a and b"
    what = f"this run has no model called {' or '.join(unknown)}" if unknown else what
    return f"{what}; expected two of {', '.join(known)}"


def labels_of_models(labels: list[Row], models_a: set[str], models_b: set[str], where: str) -> list[Row]:
    """Take the labels on the models that wrote the rows of A and B, turned round where they name them the other way.

    Labels from ``posttrain labels`` carry the content of both models as ``model_a`` and ``model_b``; labels without
    them count as given for A against B.

    Raises:
        DataError: all labels are on other models, or on several pairs of models.
    """
    found: list[Row] = []
    for label in labels:
        sides = (label.get("model_a"), label.get("model_b"))
        if None in sides or not models_a or not models_b or (sides[0] in models_a and sides[1] in models_b):
            found.append(label)
        elif sides[0] in models_b and sides[1] in models_a:
            found.append(mirrored(label))
    if not found:
        raise DataError(
            f"{where}: none of its {len(labels)} labels is on the models that wrote A and B; give the files that the "
            "pairs were made of"
        )
    if len(found) < len(labels):
        log.warning("%s: %d labels are on other models and are left out", where, len(labels) - len(found))
    pairs = sorted({(label["a"], label["b"]) for label in found if "a" in label})
    if len(pairs) > 1:
        named = ", ".join(f"{a} against {b}" for a, b in pairs)
        raise DataError(f"{where} holds labels on several pairs of models ({named}); give a file for each pair")
    return found


def numbered_rows(path: str | PathLike[str]) -> list[tuple[int, Row | str]]:
    """Read a file's rows with their line numbers; a line that is no object is a text that says why."""
    if Path(path).suffix == ".parquet":
        return list(enumerate(read_rows(path), start=1))
    return list(read_jsonl_lenient(path))


def shown(row: Row, key: str) -> str:
    """Show a value in a message as it stands in the file."""
    return json.dumps(row[key], ensure_ascii=False, default=str) if key in row else "missing"
