"""Safetensors files read and written in blocks, so that memory holds a few MiB however large a tensor is.

A file is 8 bytes with the length of the header (little-endian), the header as JSON, then the tensors' bytes one after
the other; `data_offsets` count from the end of the header (the format of huggingface/safetensors).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from posttrain.core.errors import ModelError
from posttrain.core.model_files import WEIGHTS_INDEX, weight_files

BLOCK = 1 << 18
"""Elements of a tensor that are held at a time."""
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies.

    Attributes:
        name: of the tensor.
        file: that holds it.
        dtype: as the header spells it.
        shape: of the tensor.
        start: first byte, from the start of the file.
        num_bytes: length.
    """

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    num_bytes: int

    @property
    def is_floating(self) -> bool:
        """Say whether the numbers are floating point; others, such as counters, have no mean."""
        return DTYPES[self.dtype].is_floating_point


def read_entries(folder: Path) -> dict[str, Entry]:
    """Return a model's tensors by name, file by file and in the order of their bytes.

    Raises:
        ModelError: the index names a tensor that its file lacks, or a tensor has a type that has no mean here.
    """
    files = weight_files(folder)
    index = folder / WEIGHTS_INDEX
    if files == [folder / "model.safetensors"]:
        return {entry.name: entry for entry in _header(files[0])}
    places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    found = {entry.name: entry for file in sorted(set(places.values())) for entry in _header(folder / file)}
    lost = sorted(set(places) - set(found))
    if lost:
        raise ModelError(f"{index} names {len(lost)} tensors that its files lack, {lost[0]} among them")
    return found


def _header(path: Path) -> list[Entry]:
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        tensors: dict[str, Any] = json.loads(file.read(length))
    tensors.pop("__metadata__", None)
    unknown = sorted({value["dtype"] for value in tensors.values()} - set(DTYPES))
    if unknown:
        raise ModelError(f"{path} holds {', '.join(unknown)}, which cannot be averaged; use the unquantised weights")
    entries = [
        Entry(name, path, value["dtype"], tuple(value["shape"]), 8 + length + begin, end - begin)
        for name, value in tensors.items()
        for begin, end in [value["data_offsets"]]
    ]
    return sorted(entries, key=lambda entry: entry.start)


def blocks(entry: Entry) -> Iterator[Tensor]:
    """Yield a tensor's elements in order, flat, at most BLOCK at a time."""
    dtype = DTYPES[entry.dtype]
    left = math.prod(entry.shape)
    with open(entry.file, "rb", buffering=0) as file:
        file.seek(entry.start)
        while left:
            count = min(left, BLOCK)
            yield torch.frombuffer(_read(file, count * dtype.itemsize, entry), dtype=dtype)
            left -= count


def _read(file: IO[bytes], size: int, entry: Entry) -> bytearray:
    buffer = bytearray(size)
    view, filled = memoryview(buffer), 0
    while filled < size:
        count = file.readinto(view[filled:])  # type: ignore[attr-defined]
        if not count:
            raise ModelError(f"{entry.file} ends inside the tensor {entry.name}; fetch it again")
        filled += count
    return buffer


def write_means(path: Path, rows: Sequence[Sequence[Entry]], shares: Sequence[float]) -> None:
    """Write a file with the weighted mean of each row of like tensors, in the name and type of the row's first.

    Sums are float32; of numbers that are not floating point the first model's stay.

    Args:
        rows: for each tensor its entry in every model; shapes agree within a row.
        shares: one for each model.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for first, *_ in rows:
        header[first.name] = {
            "dtype": first.dtype,
            "shape": list(first.shape),
            "data_offsets": [end, end + first.num_bytes],
        }
        end += first.num_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for row in rows:
            for block in _mean_blocks(row, shares):
                file.write(block.view(torch.uint8).numpy().data)


def _mean_blocks(row: Sequence[Entry], shares: Sequence[float]) -> Iterator[Tensor]:
    first = row[0]
    if not first.is_floating:
        yield from blocks(first)
        return
    streams = [blocks(entry) for entry in row]
    for start in range(0, math.prod(first.shape), BLOCK):
        total = torch.zeros(min(BLOCK, math.prod(first.shape) - start), dtype=torch.float32)
        for stream, share in zip(streams, shares, strict=True):
            total.add_(next(stream).float(), alpha=share)
        yield total.to(DTYPES[first.dtype])
