"""Values between the process of an answer and the process of its tests, as JSON that cannot run anything.

Plain values travel by value and arrive with exactly their built-in type; whatever else stays where it is, and a handle
travels. Pickle would not do: its opcodes let the answer's side set attributes of the classes that the tests compare by.
"""

from __future__ import annotations

import importlib
import sys
from collections import Counter, deque, namedtuple
from collections.abc import Callable, Iterable
from typing import Any

Handles = Callable[[Any], Any]


def encode(value: Any, export: Handles) -> Any:
    """Return `value` as JSON; `export` gives the handle (JSON too) of what is not plain."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, int):
        return ["int", hex(int.__index__(value))]  # hexadecimal: Python refuses decimal texts beyond 4,300 digits
    found = _encode_container(value, export)
    return ["handle", export(value)] if found is None else found


def _encode_container(value: Any, export: Handles) -> list[Any] | None:
    if isinstance(value, tuple) and hasattr(type(value), "_fields"):
        return ["namedtuple", type(value).__name__, list(getattr(value, "_fields", ())), _all(value, export)]
    if isinstance(value, Counter):
        return ["Counter", [_all(pair, export) for pair in value.items()]]
    if isinstance(value, dict):
        return ["dict", [_all(pair, export) for pair in value.items()]]
    if isinstance(value, deque):
        return ["deque", _all(value, export), value.maxlen]
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return [kind.__name__, _all(value, export)]
    return _encode_rare(value)


def _encode_rare(value: Any) -> list[Any] | None:
    if isinstance(value, bytes | bytearray):
        return ["bytearray" if isinstance(value, bytearray) else "bytes", value.hex()]
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    if isinstance(value, range):
        return ["range", *(hex(part) for part in (value.start, value.stop, value.step))]
    # Loaded only where they are used: their import takes longer than most tests.
    if _is_a(value, "fractions", "Fraction"):
        return ["Fraction", hex(value.numerator), hex(value.denominator)]
    if _is_a(value, "decimal", "Decimal"):
        return ["Decimal", str(value)]
    if _is_a(value, "datetime", "timedelta"):
        return ["timedelta", value.days, value.seconds, value.microseconds]
    for name in ("datetime", "date", "time"):
        if _is_a(value, "datetime", name):
            return [name, value.isoformat()]
    return None


def _is_a(value: Any, module: str, name: str) -> bool:
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(value, kind)


def _all(values: Iterable[Any], export: Handles) -> list[Any]:
    return [encode(value, export) for value in values]


def decode(data: Any, handle: Handles) -> Any:
    """Return the value of a JSON form; `handle` gives what stands for a handle.

    Raises:
        ValueError: it is no form that `encode` writes; also KeyError, TypeError where parts are missing.
    """
    if not isinstance(data, list):
        return data
    kind, *parts = data
    if kind == "handle":
        return handle(parts[0])
    if kind in _CONTAINERS:
        return _CONTAINERS[kind](decode(item, handle) for item in parts[0])
    if kind == "dict" or kind == "Counter":
        pairs = {decode(key, handle): decode(value, handle) for key, value in parts[0]}
        return Counter(pairs) if kind == "Counter" else pairs
    if kind == "deque":
        return deque((decode(item, handle) for item in parts[0]), parts[1])
    if kind == "namedtuple":
        return namedtuple(parts[0], parts[1])(*(decode(item, handle) for item in parts[2]))  # type: ignore[misc]
    if kind in _RARE:
        return _RARE[kind](*parts)
    raise ValueError(f"unknown form {kind!r}")


_library = importlib.import_module
_CONTAINERS: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_RARE: dict[str, Callable[..., Any]] = {
    "int": lambda text: int(text, 16),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "complex": complex,
    "range": lambda *parts: range(*(int(part, 16) for part in parts)),
    "Fraction": lambda above, below: _library("fractions").Fraction(int(above, 16), int(below, 16)),
    "Decimal": lambda text: _library("decimal").Decimal(text),
    "timedelta": lambda *parts: _library("datetime").timedelta(*parts),
    "date": lambda text: _library("datetime").date.fromisoformat(text),
    "time": lambda text: _library("datetime").time.fromisoformat(text),
    "datetime": lambda text: _library("datetime").datetime.fromisoformat(text),
}


def restore(old: Any, new: Any) -> Any:
    """Bring a caller's containers up to what the called function made of its copies; return what stands in their place.

    So a test that passes a list and looks whether it was sorted in place sees that it was.
    """
    if type(old) is not type(new):
        return new
    if isinstance(old, list):
        old[:] = [restore(*pair) for pair in zip(old, new, strict=False)] + new[len(old) :]
    elif isinstance(old, dict):
        kept = {key: restore(old[key], value) if key in old else value for key, value in new.items()}
        old.clear()
        old.update(kept)
    elif isinstance(old, set):
        old.intersection_update(new)
        old.update(new)
    elif isinstance(old, bytearray):
        old[:] = new
    elif isinstance(old, deque):
        old.clear()
        old.extend(new)
    else:
        return new if not isinstance(old, tuple) else tuple(restore(*pair) for pair in zip(old, new, strict=False))
    return old
