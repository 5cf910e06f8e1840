"""What a stage was asked, as a hash; and which fields make two askings differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from posttrain.config import plain
from posttrain.core.files import content_hash

ADDRESS_LENGTH = 12


def identity(stage: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is asked of a stage as plain JSON: its name, its hand-raised version, config and input addresses.

    Args:
        config: Values by name; sections leave out the fields that only say how.
        inputs: Addresses, or lists of addresses, by name.
    """
    return {"stage": stage, "version": version, "config": plain(dict(config)), "inputs": dict(inputs)}


def address(asked: Mapping[str, Any]) -> str:
    """Return the address of what is asked: twelve hexadecimal digits of the hash of `identity`."""
    return content_hash(asked, length=ADDRESS_LENGTH)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """List the fields in which two identities differ, as (path, old value, new value); absent values are None."""
    flat_old, flat_new = dict(_flatten(old)), dict(_flatten(new))
    names = list(flat_old) + [name for name in flat_new if name not in flat_old]
    return [
        (name, flat_old.get(name), flat_new.get(name)) for name in names if flat_old.get(name) != flat_new.get(name)
    ]


def _flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flatten(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)) and value:
        for index, item in enumerate(value):
            yield from _flatten(item, f"{path}.{index}")
    else:
        yield path, value
