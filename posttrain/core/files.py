"""Files: hashes, and rows in and out as JSON Lines or Parquet. The door to the atomic writes and the journal."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from posttrain.core.atomic import PathLike, atomic_directory, atomic_file, atomic_write, file_lock, is_locked
from posttrain.core.errors import DataError, Faults
from posttrain.core.journal import Journal
from posttrain.core.jsonl import encode_row, read_jsonl, read_jsonl_lenient
from posttrain.core.parquet import read_parquet

__all__ = [
    "Journal",
    "ListHash",
    "atomic_directory",
    "atomic_write",
    "canonical_json",
    "content_hash",
    "file_lock",
    "is_locked",
    "read_jsonl",
    "read_jsonl_lenient",
    "read_rows",
    "read_text",
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


def read_text(path: PathLike) -> str:
    """Read a text file as UTF-8; a byte order mark at its beginning is no content, and every line ends in a newline.

    Raises:
        DataError: there is no such file, or it is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        begins = Path(path).read_bytes()[:4]
        name = next((name for mark, name in _OTHER_ENCODINGS if begins.startswith(mark)), None)
        what = f"it is {name}" if name else f"byte {error.start + 1} is {error.object[error.start]:#04x}"
        raise DataError(f"{path} cannot be read as UTF-8 text ({what}); save it as UTF-8") from error
    except OSError as error:
        what = "is a directory" if Path(path).is_dir() else f"cannot be read: {error.strerror}"
        raise DataError(f"{path} {what}; give a text file") from error


def canonical_json(obj: Any) -> str:
    """Write `obj` as JSON in its one canonical form: sorted keys, no whitespace.

    Raises:
        TypeError: `obj` holds something that JSON has no form for (NaN and keys that are no strings included).
    """
    _refuse_keys_that_are_no_strings(obj)
    try:
        return _CANONICAL.encode(obj)
    except ValueError as error:
        raise TypeError(f"not JSON: {error}") from error


def content_hash(obj: Any, length: int = 16) -> str:
    """Hash a JSON-able object by content: `length` hex digits (at most 64), the same on every machine.

    Raises:
        TypeError: `obj` holds something that JSON has no form for.
    """
    return hashlib.blake2b(_canonical_bytes(obj), digest_size=32).hexdigest()[:length]


class ListHash:
    """Hash a list item by item: what `content_hash` gives for the whole of it, without holding it."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(b"[", digest_size=32)
        self._empty = True

    def add(self, item: Any) -> None:
        """Take the next item.

        Raises:
            TypeError: `item` holds something that JSON has no form for.
        """
        self._hash.update(_canonical_bytes(item) if self._empty else b"," + _canonical_bytes(item))
        self._empty = False

    def hexdigest(self, length: int = 16) -> str:
        """Give the hash of the items so far, `length` hex digits."""
        whole = self._hash.copy()
        whole.update(b"]")
        return whole.hexdigest()[:length]


def read_rows(path: PathLike) -> list[dict[str, Any]]:
    """Read all rows of a JSON Lines file, or of a Parquet file where the name ends in `.parquet`.

    Raises:
        DataError: lists the first twenty bad lines; or there is no such file.
    """
    if Path(path).suffix == ".parquet":
        return list(read_parquet(path))
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


_OTHER_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
    (b"\x1f\x8b", "compressed by gzip"),
)

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _canonical_bytes(obj: Any) -> bytes:
    # surrogatepass: whatever canonical_json can write has a hash, lone surrogates too.
    return canonical_json(obj).encode("utf-8", "surrogatepass")


def _refuse_keys_that_are_no_strings(obj: Any) -> None:
    # json.dumps writes the key 1 as "1", so {1: x} and {"1": x} would share a hash.
    if isinstance(obj, _LEAVES):
        return
    if isinstance(obj, Mapping):
        for key, value in obj.items():
            if not isinstance(key, str):
                raise TypeError(f"not JSON: the key {key!r} is no string")
            if not isinstance(value, _LEAVES):
                _refuse_keys_that_are_no_strings(value)
    elif isinstance(obj, list | tuple):
        for value in obj:
            _refuse_keys_that_are_no_strings(value)


_LEAVES = (str, int, float, type(None))
