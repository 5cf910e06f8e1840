"""`key=value` settings of `posttrain train`: the same keys as in a recipe's training sections."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from posttrain.config import LoraConfig, Section
from posttrain.recipe_file import RecipeError, read_value

S = TypeVar("S", bound=Section)


def read_settings(section: type[S], items: Sequence[str], defaults: Mapping[str, Any]) -> S:
    """Read settings into a section.

    Args:
        items: `key=value`, dots for parts (`lora.rank=8`); values are read as YAML.
        defaults: Values of keys that are not given.

    Raises:
        RecipeError: Lists every fault: an unknown key (with a suggestion), a wrong type, a value out of range.
    """
    data: dict[str, Any] = {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in defaults.items()
    }
    faults: list[str] = []
    for item in items:
        key, separator, text = item.partition("=")
        if not separator or not key:
            faults.append(f"'{item}' is not key=value, for example learning_rate=1e-5")
            continue
        try:
            _put(data, key, read_value(item, text))
        except RecipeError as error:
            faults.append(str(error))
    try:
        result = section.model_validate(data)
    except ValidationError as error:
        faults += [_describe(section, item) for item in error.errors()]
    if faults:
        raise RecipeError(
            f"{len(faults)} fault{'s' if len(faults) > 1 else ''} in the settings:\n"
            + "\n".join(f"  - {f}" for f in faults)
        )
    return result


def _put(data: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        if data.get(parent) is None:
            data[parent] = {}
        if not isinstance(data[parent], dict):
            raise RecipeError(f"{key}: '{parent}' is the value {data[parent]!r}, which has no parts")
        data = data[parent]
    data[last] = value


def _describe(section: type[Section], error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        fields = LoraConfig.model_fields if where.startswith("lora.") else section.model_fields
        near = difflib.get_close_matches(str(error["loc"][-1]), list(fields), n=1)
        return f"{where}: unknown key; " + (f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(fields)}")
    message = error["msg"].removeprefix("Value error, ")
    given = error.get("input")
    shown = f" (got {given!r})" if isinstance(given, (str, int, float, bool)) else ""
    return f"{where}: {message}{shown}" if where else message
