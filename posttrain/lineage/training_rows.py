"""The rows that trained a checkpoint as a Parquet file, an answer a row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.core.atomic import atomic_file
from posttrain.core.errors import DataError
from posttrain.core.jsonl import decode_row
from posttrain.lineage.answer_files import read_answers
from posttrain.lineage.checkpoint import writer_name
from posttrain.lineage.graph import Graph
from posttrain.lineage.row_index import RowIndex

COLUMNS = {
    **{"prompt_id": "string", "sample_index": "int64", "role": "string", "stage": "string", "round": "int64"},
    **{"source": "string", "model": "string", "written_by": "string", "score": "double"},
    **{"trained": "string", "file": "string"},
}
"""By name their types. `trained` and `file` name the training and the artifact that held the row."""
TEXTS = {"prompt": "string", "completion": "string"}


def write_training_rows(graph: Graph, name: str, out: Path, with_text: bool) -> int:
    """Write the answers that are in a model's weights to a Parquet file; return their number.

    Args:
        graph: The run.
        name: Of the model, as a person types it.
        out: File to write; its name ends in `.parquet`.
        with_text: Add `prompt` and `completion`, lists of messages as JSON, which are read from the rows themselves.

    Raises:
        DataError: The run has no such model, no row trained it, or `out` has another ending.
    """
    import pyarrow as pa  # takes a third of a second to load, and only this needs it
    import pyarrow.parquet as pq

    if out.suffix != ".parquet":
        raise DataError(f"--out {out}: the rows are written as Parquet; give a name that ends in .parquet")
    chain = [node for node in graph.weights_of(graph.model_named(name)) if graph.training_data(node)]
    if not chain:
        still = f", of those that are still there ({len(graph.run.lost)} artifacts are not)," if graph.run.lost else ""
        raise DataError(f"no row of run {graph.run.name}{still} trained {name}: there is nothing to write to {out}")
    types = COLUMNS | (TEXTS if with_text else {})
    schema = pa.schema([(column, pa.type_for_alias(kind)) for column, kind in types.items()])
    written = 0
    with atomic_file(out) as file, pq.ParquetWriter(file, schema) as writer:
        for node in chain:
            for reference, index in graph.training_data(node):
                constant = {"stage": node.stage, "trained": node.label, "file": graph.nodes[reference].label}
                for table in _tables(graph, constant, index, schema):
                    writer.write_table(table)
                    written += table.num_rows
    return written


def _tables(graph: Graph, constant: dict[str, str], index: RowIndex, schema: Any) -> Iterator[Any]:
    """Stream the answers of one file as tables of a schema.

    Args:
        graph: The run.
        constant: Columns with one value for all.
        index: Of the file.
        schema: Of the tables; with `prompt` and `completion` the rows themselves are read.
    """
    import pyarrow as pa

    common = dict(zip(("role", "source", "round", "model"), zip(*index.kinds, strict=True), strict=False))
    common["written_by"] = tuple(writer_name(graph, kind[0], kind[3]) for kind in index.kinds)
    texts = _Texts(index.data)
    for batch in read_answers(index.path):
        columns = {name: batch.column(name) for name in ("prompt_id", "sample_index", "score")}
        columns |= {name: pa.repeat(pa.scalar(value), batch.num_rows) for name, value in constant.items()}
        for name, values in common.items():
            of_kind = pa.array(values, schema.field(name).type)
            columns[name] = pa.DictionaryArray.from_arrays(batch.column("kind"), of_kind).dictionary_decode()
        if "prompt" in schema.names:
            rows = zip(batch.column("offset").to_pylist(), columns["role"].to_pylist(), strict=True)
            said = zip(*(texts.of(offset, role) for offset, role in rows), strict=True)
            columns |= {name: pa.array(values, pa.string()) for name, values in zip(TEXTS, said, strict=True)}
        yield pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


class _Texts:
    """Read prompts and completions of a file's rows, once from its beginning to its end."""

    def __init__(self, data: Path) -> None:
        self._rows = _rows(data)
        self._offset, self._row = -1, dict[str, Any]()

    def of(self, offset: int, role: str) -> tuple[str, str]:
        """Return prompt and completion of an answer; rows have to be asked for in the order of the file."""
        while self._offset != offset:
            self._offset, self._row = next(self._rows)
        return _json(self._row["prompt"]), _json(self._row[{"sft": "completion", "edited": "chosen"}.get(role, role)])


def _rows(data: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    offset = 0
    with open(data, "rb") as file:
        for line in file:
            row = decode_row(line)
            if isinstance(row, dict):
                yield offset, row
            offset += len(line)


def _json(messages: Any) -> str:
    return json.dumps(messages, ensure_ascii=False)
