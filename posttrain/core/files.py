"""Files: hashes, and rows in and out as JSON Lines or Parquet. The door to the atomic writes and the journal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from posttrain.core.atomic import PathLike, atomic_directory, atomic_file, atomic_write, file_lock, is_locked
from posttrain.core.errors import DataError, Faults
from posttrain.core.journal import Journal
from posttrain.core.jsonl import encode_row, read_jsonl, read_jsonl_lenient

__all__ = [
    "Journal",
    "atomic_directory",
    "atomic_write",
    "canonical_json",
    "content_hash",
    "file_lock",
    "is_locked",
    "read_jsonl",
    "read_jsonl_lenient",
    "read_rows",
    "sha256_file",
    "write_jsonl",
    "write_rows",
]


def sha256_file(path: PathLike) -> str:
    """Hash the bytes of a file, 64 hex digits.

    Raises:
        DataError: there is no such file.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError) as error:
        what = "is a directory" if Path(path).is_dir() else "does not exist"
        raise DataError(f"{path} {what}; give a file") from error


def canonical_json(obj: Any) -> str:
    """Write `obj` as JSON in its one canonical form: sorted keys, no whitespace.

    Raises:
        TypeError: `obj` holds something that JSON has no form for (NaN and keys that are no strings included).
    """
    _refuse_keys_that_are_no_strings(obj)
    try:
        return json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise TypeError(f"not JSON: {error}") from error


def content_hash(obj: Any, length: int = 16) -> str:
    """Hash a JSON-able object by content: `length` hex digits (at most 64), the same on every machine.

    Raises:
        TypeError: `obj` holds something that JSON has no form for.
    """
    # surrogatepass: whatever canonical_json can write has a hash, lone surrogates too.
    data = canonical_json(obj).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=32).hexdigest()[:length]


def read_rows(path: PathLike) -> list[dict[str, Any]]:
    """Read all rows of a JSON Lines file, or of a Parquet file where the name ends in `.parquet`.

    Raises:
        DataError: lists the first twenty bad lines; or there is no such file.
    """
    if Path(path).suffix == ".parquet":
        return _read_parquet(path)
    faults = Faults(str(path))
    rows = []
    for number, row in read_jsonl_lenient(path):
        if isinstance(row, str):
            faults.add(f"line {number}: {row}")
        else:
            rows.append(row)
    faults.raise_if_any(DataError)
    return rows


def write_jsonl(path: PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the rows as JSON Lines, the whole file or nothing.

    Raises:
        StorageError: the disk is full; the old file is untouched.
        DataError: a row holds NaN or an infinity.
    """
    with atomic_file(path) as file:
        for row in rows:
            file.write(encode_row(row))


def write_rows(path: PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the rows as Parquet where the name ends in `.parquet`, else as JSON Lines; the whole file or nothing.

    In Parquet every row has every column: a key that a row lacks comes back as None.
    """
    if Path(path).suffix != ".parquet":
        write_jsonl(path, rows)
        return
    import pyarrow as pa  # takes half a second to load, and few runs need it
    import pyarrow.parquet as pq

    rows = [dict(row) for row in rows]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    # from_pylist alone takes its columns from the first row and drops the others.
    table = pa.table({column: [row.get(column) for row in rows] for column in columns})
    with atomic_file(path) as file:
        pq.write_table(table, file)


def _read_parquet(path: PathLike) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not Path(path).is_file():
        what = "is a directory" if Path(path).is_dir() else "does not exist"
        raise DataError(f"{path} {what}; give a .parquet or .jsonl file")
    try:
        # A handle, not the name: pyarrow would read `key=value` folders of the path as columns.
        with open(path, "rb") as file:
            rows = pq.read_table(file).to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error
    _refuse_values_that_are_not_json(rows, path)
    return rows


def _refuse_values_that_are_not_json(rows: list[dict[str, Any]], path: PathLike) -> None:
    """Refuse dates, bytes, NaN and the like, which Parquet can hold and the rows that we write cannot."""
    faults = Faults(str(path))
    for number, row in enumerate(rows, start=1):
        for column, value in row.items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError) as error:
                faults.add(f"row {number}: column '{column}': {error}; make it text, a number or null, or drop it")
    faults.raise_if_any(DataError)


def _refuse_keys_that_are_no_strings(obj: Any) -> None:
    # json.dumps writes the key 1 as "1", so {1: x} and {"1": x} would share a hash.
    if isinstance(obj, Mapping):
        for key, value in obj.items():
            if not isinstance(key, str):
                raise TypeError(f"not JSON: the key {key!r} is no string")
            _refuse_keys_that_are_no_strings(value)
    elif isinstance(obj, list | tuple):
        for value in obj:
            _refuse_keys_that_are_no_strings(value)
