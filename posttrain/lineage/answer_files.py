"""The answers of a training file as columns, beside its index: written when it is indexed, read in bulk.

Parquet, since half a million rows of SQLite take a second to fetch one by one. What answers have in common (role,
source, round, model) is a number, its kind, whose meaning stands in the index.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from posttrain.lineage.answers import answers_of

ANSWERS_AT_ONCE = 100_000
_COLUMNS = {"offset": "int64", "prompt_id": "string", "sample_index": "int64", "score": "double", "kind": "int32"}


class AnswerWriter:
    """Collect the answers of one file; where it holds none, nothing is written.

    Args:
        file_name: Of the rows: it says which answers they hold.
        path: Parquet file to write.

    Attributes:
        num_rows: Rows that hold answers; a pair is one.
    """

    def __init__(self, file_name: str, path: Path) -> None:
        self.path = path
        self.num_rows = 0
        self._file_name = file_name
        self._kinds: dict[tuple[Any, ...], int] = {}
        self._numbers: Counter[int] = Counter()
        self._block: list[tuple[Any, ...]] = []
        self._writer: Any = None

    @property
    def kinds(self) -> list[tuple[Any, ...]]:
        """Return (number, role, source, round, model, answers) of each kind."""
        return [(number, *kind, self._numbers[number]) for kind, number in self._kinds.items()]

    def add(self, offset: int, row: Mapping[str, Any]) -> None:
        """Take the answers of a row that stands at this offset."""
        found = answers_of(self._file_name, row)
        for answer in found:
            kind = self._kinds.setdefault((answer.role, answer.source, answer.round, answer.model), len(self._kinds))
            self._numbers[kind] += 1
            self._block.append((offset, answer.prompt_id, answer.sample_index, answer.score, kind))
        self.num_rows += bool(found)
        if len(self._block) >= ANSWERS_AT_ONCE:
            self._write()

    def close(self) -> None:
        """Write what is left."""
        if self._block:
            self._write()
        if self._writer is not None:
            self._writer.close()

    def _write(self) -> None:
        import pyarrow as pa  # takes a while to load, and most files hold no answers
        import pyarrow.parquet as pq

        schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in _COLUMNS.items()])
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.path, schema)
        columns = zip(*self._block, strict=True)
        arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
        self._block = []


def answers_path(index: Path) -> Path:
    """Return where the answers of an indexed file lie."""
    return index.with_suffix(".parquet")


def read_answers(index: Path) -> Iterator[Any]:
    """Stream the answers as record batches of `offset`, `prompt_id`, `sample_index`, `score`, `kind`.

    Where the index knows of no answers there is no file to read.
    """
    import pyarrow.parquet as pq

    if answers_path(index).is_file():
        with pq.ParquetFile(answers_path(index)) as file:
            yield from file.iter_batches(ANSWERS_AT_ONCE)
