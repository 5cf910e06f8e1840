"""JSON Lines: one JSON object a line, read as a stream, every fault with its line number."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from posttrain.core.atomic import PathLike
from posttrain.core.errors import DataError
from posttrain.core.file_kinds import fault_of_file

_MOST_DIGITS = 300
"""Of a whole number: more do not fit a float, so that it could not be compared with other numbers."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def encode_row(row: Mapping[str, Any]) -> bytes:
    """Write one row as one line of UTF-8 JSON, the newline included.

    Raises:
        DataError: the row holds NaN or an infinity, for which JSON has no form.
    """
    try:
        line = encode_value(row)
    except ValueError as error:
        raise DataError(f"a row cannot be written as JSON: {error}; its keys: {', '.join(map(str, row))}") from error
    return encode_line(line)


def encode_value(value: Any) -> str:
    """Write a value as it stands in a line of ours.

    Raises:
        ValueError: it holds NaN or an infinity.
    """
    return _ENCODER.encode(value)


def encode_line(line: str) -> bytes:
    """Make bytes of a line that holds one JSON value; the newline is added."""
    try:
        return line.encode("utf-8") + b"\n"
    except UnicodeEncodeError:
        # A lone surrogate that came in as an escape has to leave as one.
        return json.dumps(json.loads(line), allow_nan=False).encode("ascii") + b"\n"


def decode_row(line: bytes) -> dict[str, Any] | str:
    """Read one line; where it holds no JSON object, return the reason instead."""
    try:
        value = _DECODER.decode(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return (
            f"not UTF-8 (byte {error.start + 1} of the line); save the file as UTF-8, from Windows or Latin-1 text by "
            "iconv -f WINDOWS-1252 -t UTF-8"
        )
    except json.JSONDecodeError as error:
        if not line.strip(b"\0\r\n \t"):
            return "only NUL bytes, as a crash or a full disk leaves them; remove the line"
        if error.msg.startswith("Extra data") and (more := line.decode("utf-8")[error.pos :].lstrip()):
            if more.startswith("{"):
                return f"a second object begins at column {error.colno}; put each object on a line of its own"
            if more.strip() == ",":
                return "a comma behind the object; remove it (in JSON Lines nothing stands between the lines)"
        if line.startswith(_BYTE_ORDER_MARK):
            return "not JSON: a byte order mark where a line begins; remove it"
        return f"not JSON: {error.msg.removesuffix(' at')} at column {error.colno}"
    except _NotANumber as error:
        return f"not JSON: {error}; write null or drop the row"
    except RecursionError:
        return "not usable: JSON nested too deeply"
    if not isinstance(value, dict):
        return f"expected a JSON object {{…}}, got {_kind(value)}"
    return value


def read_jsonl_lenient(path: PathLike) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Stream (line number from 1, row) and, for a line that is no JSON object, (line number, reason).

    Raises:
        DataError: there is no such file.
    """
    for number, line in read_lines(path):
        yield number, decode_row(line)


def read_lines(path: PathLike) -> Iterator[tuple[int, bytes]]:
    """Stream (line number from 1, line); a leading byte order mark is taken off and blank lines are skipped.

    Raises:
        DataError: there is no such file, or it is of another kind (compressed, UTF-16, a JSON array, …).
    """
    _require_file(path)
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            if line.strip():
                yield number, line


def read_jsonl(path: PathLike) -> Iterator[tuple[int, dict[str, Any]]]:
    """Stream (line number from 1, row).

    Raises:
        DataError: at the first line that is no JSON object, with file and line; or there is no such file.
    """
    for number, row in read_jsonl_lenient(path):
        if isinstance(row, str):
            raise DataError(f"{path}:{number}: {row}. Mend or remove the line.")
        yield number, row


class _NotANumber(Exception):
    pass


def _refuse_constant(name: str) -> None:
    raise _NotANumber(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):  # 1e400, which would come out again as Infinity
        raise _NotANumber(f"{text[:20]} is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise _NotANumber(f"{text[:20]}… is too large")
    return int(text)


# Made once: json.dumps and json.loads make new ones for every call that has options.
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite, parse_int=_whole)


def _require_file(path: PathLike) -> None:
    fault = fault_of_file(Path(path))
    if fault is not None:
        raise DataError(f"{path} {fault}")


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")
