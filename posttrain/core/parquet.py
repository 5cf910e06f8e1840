"""Parquet: rows read as a stream, with every value that JSON has no form for named by row and column."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.core.atomic import PathLike
from posttrain.core.errors import DataError, Faults

ROWS_AT_ONCE = 1024


def read_parquet(path: PathLike) -> Iterator[dict[str, Any]]:
    """Stream the rows of a Parquet file.

    Raises:
        DataError: lists the first twenty values that are no JSON (dates, bytes, NaN and the like), once all rows
            were looked at; or there is no such file, or it is no Parquet.
    """
    import pyarrow as pa  # takes half a second to load, and few runs need it
    import pyarrow.parquet as pq

    if not Path(path).is_file():
        what = "is a directory" if Path(path).is_dir() else "does not exist"
        raise DataError(f"{path} {what}; give a .parquet or .jsonl file")
    faults = Faults(str(path))
    number = 0
    try:
        # A handle, not the name: pyarrow would read `key=value` folders of the path as columns.
        with open(path, "rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    number += 1
                    _look_for_values_that_are_no_json(number, row, faults)
                    if not faults:
                        yield row
    except pa.ArrowException as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error
    faults.raise_if_any(DataError)


def _look_for_values_that_are_no_json(number: int, row: dict[str, Any], faults: Faults) -> None:
    try:
        json.dumps(row, allow_nan=False)
        return
    except (TypeError, ValueError):
        pass  # which of its values is it?
    for column, value in row.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            faults.add(f"row {number}: column '{column}': {error}; make it text, a number or null, or drop it")
