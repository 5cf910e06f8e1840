"""Where prompts lie, to be read as often as wanted: a JSON Lines file, a Parquet file, or rows at hand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from posttrain.core.jsonl import decode_row, read_lines
from posttrain.core.parquet import read_parquet

Row = dict[str, Any]
Entry = tuple[int, int, Any]


@runtime_checkable
class PromptSource(Protocol):
    """Stream entries: (line from 1, mark, what `row` makes a row of); a changed entry has another mark.

    `place` names the source in messages.
    """

    place: str

    def entries(self) -> Iterator[Entry]: ...

    def row(self, raw: Any) -> Row | str:
        """Return an entry's row, or why it holds none."""
        ...


class JsonlSource:
    """Stream the lines of a JSON Lines file; a line that nobody wants is not decoded."""

    def __init__(self, path: str | PathLike[str]) -> None:
        self.place = str(path)

    def entries(self) -> Iterator[Entry]:
        """Stream the lines that are not blank."""
        for number, line in read_lines(self.place):
            yield number, _mark(line), line

    def row(self, raw: bytes) -> Row | str:
        """Decode a line."""
        return decode_row(raw)


class ParquetSource:
    """Stream the rows of a Parquet file."""

    def __init__(self, path: str | PathLike[str]) -> None:
        self.place = str(path)

    def entries(self) -> Iterator[Entry]:
        """Stream the rows, counted from 1."""
        for number, row in enumerate(read_parquet(self.place), start=1):
            yield number, _mark(repr(row).encode("utf-8", "surrogatepass")), row

    def row(self, raw: Row) -> Row:
        """Return the row."""
        return raw


class RowSource:
    """Hold rows that came from nowhere that could be read again."""

    place = "the prompts"

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._rows = [dict(row) for row in rows]

    def entries(self) -> Iterator[Entry]:
        """Stream the rows, counted from 1."""
        for number, row in enumerate(self._rows, start=1):
            yield number, 0, row

    def row(self, raw: Row) -> Row:
        """Return the row."""
        return raw


Prompts = str | PathLike[str] | PromptSource | Iterable[Mapping[str, Any]]


def source_of(prompts: Prompts) -> PromptSource:
    """Choose the source: a file by its name, rows as they are; a source is one already."""
    if isinstance(prompts, PromptSource):
        return prompts
    if not isinstance(prompts, str | PathLike):
        return RowSource(prompts)
    return ParquetSource(prompts) if Path(prompts).suffix == ".parquet" else JsonlSource(prompts)


def _mark(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
