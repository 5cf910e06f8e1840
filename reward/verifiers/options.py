"""The values that options of built-in verifiers may have, looked at before any row is scored.

A table beside the verifiers, not in their files: a file's content is the identity of what it has scored, and a better
message scores nothing anew.
"""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], str | None]
"""Says what was expected instead of a value; None where it can be used."""


def option_faults(verifier: str, options: Mapping[str, Any]) -> list[str]:
    """List the options of a built-in verifier whose values it cannot use; nothing for other verifiers."""
    checks = _CHECKS.get(verifier, {})
    expected = {name: checks[name](value) for name, value in options.items() if name in checks}
    return [f"{name} is {options[name]!r}; expected {what}" for name, what in expected.items() if what is not None]


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) and value else "the name of a column"


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def _from_zero(value: Any) -> str | None:
    return None if _is_number(value) and value >= 0 else "a number from 0"


def _above_zero(value: Any) -> str | None:
    return None if _is_number(value) and value > 0 else "a number above 0"


def _whole_above_zero(value: Any) -> str | None:
    return None if _is_number(value) and isinstance(value, int) and value > 0 else "a whole number above 0"


def _whole_from_zero(value: Any) -> str | None:
    return None if _is_number(value) and isinstance(value, int) and value >= 0 else "a whole number from 0"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _pattern(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        return "a regular expression, as text"
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        return f"a regular expression ({error})"
    return None


def _schema(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        return "a JSON schema, a mapping"
    if importlib.util.find_spec("jsonschema") is None:
        return None  # that it is missing is said elsewhere
    import jsonschema  # an extra

    try:
        jsonschema.validators.validator_for(value).check_schema(value)
    except jsonschema.SchemaError as error:
        return f"a JSON schema ({error.json_path}: {error.message[:200]})"
    return None


_CHECKS: dict[str, dict[str, Check]] = {
    "exact": {"column": _text, "ignore_case": _flag},
    "number": {"column": _text, "tolerance": _from_zero},
    "regex": {"column": _text, "pattern": _pattern},
    "json_schema": {"column": _text, "schema": _schema},
    "math": {"column": _text, "float_rounding": _whole_from_zero},
    "code": {
        "column": _text,
        "partial": _flag,
        "program_timeout_s": _above_zero,
        "program_memory_mb": _whole_above_zero,
        "uncontained": _flag,
    },
}
