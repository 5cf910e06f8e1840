"""How a verifier runs, and a verifier with its options as one word: `number?tolerance=0.01&column=answer`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import parse_qsl

from reward.errors import RewardError

BUILT_INS = {
    "exact": "reward.verifiers.exact:verify",
    "number": "reward.verifiers.number:verify",
    "regex": "reward.verifiers.regex:verify",
    "json_schema": "reward.verifiers.json_schema:verify",
    "math": "reward.verifiers.math:verify",
    "code": "reward.verifiers.code:verify",
}
"""Short names of the verifiers of this package."""


@dataclass(frozen=True)
class VerifierSettings:
    """How a verifier runs.

    Attributes:
        options: further keyword arguments for the function.
        timeout_s: seconds for one row.
        memory_mb: address space of the child, in MiB.
        max_error_rate: share of rows that may fail.
        workers: child processes at once.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float = 10.0
    memory_mb: int = 4096
    max_error_rate: float = 0.1
    workers: int = 1


_OWN = {item.name: item.type for item in fields(VerifierSettings) if item.name != "options"}


def parse_verifier(text: str) -> tuple[str, VerifierSettings]:
    """Split a verifier's name from its options; `timeout_s`, `memory_mb`, `max_error_rate`, `workers` are ours.

    Values are JSON where they can be read as that, else text. Characters that the form itself uses are written as in
    web addresses (`%26` for `&`).

    Raises:
        RewardError: an option without a value or given twice, or a setting that is no number.
    """
    function, _, query = text.partition("?")
    try:
        pairs = parse_qsl(query, strict_parsing=bool(query))
    except ValueError as error:
        raise RewardError(f"verifier {text!r}: {error}; options are written NAME?key=value&key=value") from error
    given = {name: _value(value) for name, value in pairs}
    repeated = [name for name in given if sum(name == other for other, _ in pairs) > 1]
    if repeated:
        raise RewardError(f"verifier {text!r}: {', '.join(repeated)} is given more than once; give each option once")
    own = {name: given.pop(name) for name in list(given) if name in _OWN}
    for name, value in own.items():
        wanted = int if name in ("memory_mb", "workers") else int | float
        is_number = isinstance(value, wanted) and not isinstance(value, bool)
        if not is_number or value < 0 or (value == 0 and name != "max_error_rate"):
            raise RewardError(f"verifier {text!r}: {name} is {value!r}; expected a number above 0")
    return function, VerifierSettings(options=given, **own)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
