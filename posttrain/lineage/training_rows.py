"""The rows that trained a checkpoint as a Parquet file, an answer a row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from posttrain.core.atomic import atomic_file
from posttrain.core.errors import DataError
from posttrain.core.jsonl import decode_row
from posttrain.lineage.checkpoint import writer_name
from posttrain.lineage.graph import Graph, Node
from posttrain.lineage.row_index import RowIndex

ANSWERS_AT_ONCE = 100_000
COLUMNS = ("prompt_id", "sample_index", "role", "stage", "round", "source", "model", "written_by", "score")
"""Without texts. Further: `trained` and `file`, the names of the training and of the artifact that held the row."""


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
        raise DataError(f"no row of run {graph.run.name} trained {name}: there is nothing to write to {out}")
    text, number = pa.string(), pa.int64()
    kinds = {**dict.fromkeys(COLUMNS, text), "sample_index": number, "round": number, "score": pa.float64()}
    kinds |= {"trained": text, "file": text} | ({"prompt": text, "completion": text} if with_text else {})
    schema = pa.schema(list(kinds.items()))
    written = 0
    with atomic_file(out) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for node in chain:
            for reference, index in graph.training_data(node):
                label = graph.nodes[reference].label
                rows = _rows(graph, node, label, index, with_text)
                while block := list(islice(rows, ANSWERS_AT_ONCE)):
                    columns = zip(*block, strict=True)
                    arrays = [pa.array(values, kind) for values, kind in zip(columns, kinds.values(), strict=True)]
                    writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
                    written += len(block)
    return written


def _rows(graph: Graph, node: Node, label: str, index: RowIndex, with_text: bool) -> Iterator[tuple[Any, ...]]:
    texts = _texts(index.data) if with_text else None
    at = -1
    row: dict[str, Any] = {}
    for offset, answer in index.answers():
        who = writer_name(graph, answer.role, answer.model)
        told = (
            answer.prompt_id,
            answer.sample_index,
            answer.role,
            node.stage,
            answer.round,
            answer.source,
            answer.model,
        )
        if texts is None:
            yield (*told, who, answer.score, node.label, label)
            continue
        while at != offset:
            at, row = next(texts)
        completion = row[{"sft": "completion", "edited": "chosen"}.get(answer.role, answer.role)]
        yield (*told, who, answer.score, node.label, label, _json(row["prompt"]), _json(completion))


def _texts(data: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    offset = 0
    with open(data, "rb") as file:
        for line in file:
            row = decode_row(line)
            if isinstance(row, dict):
                yield offset, row
            offset += len(line)


def _json(messages: Any) -> str:
    return json.dumps(messages, ensure_ascii=False)
