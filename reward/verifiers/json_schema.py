"""JSON that has to satisfy a schema."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

try:
    import jsonschema
    import referencing
except ImportError as error:
    raise ImportError("the verifier json_schema needs jsonschema: pip install 'posttrain[json-schema]'") from error


from reward.verifiers.fences import fenced_blocks


def verify(
    prompt: Sequence[Mapping[str, Any]],
    completion: str,
    row: Mapping[str, Any],
    schema: Mapping[str, Any] | None = None,
    column: str = "schema",
) -> tuple[float, str]:
    """Give 1 where the completion is JSON, perhaps in one code fence, that satisfies `schema` or the row's own.

    NaN and Infinity, which Python's parser takes, are not JSON (RFC 8259). Nothing is fetched.

    Raises:
        KeyError: there is no schema.
        referencing.exceptions.Unresolvable: it refers to a schema elsewhere.
        jsonschema.SchemaError: the schema is none.
    """
    wanted = row[column] if schema is None else schema
    validator = jsonschema.validators.validator_for(wanted)
    validator.check_schema(wanted)
    blocks = fenced_blocks(completion)
    alone = len(blocks) == 1 and blocks[0].alone
    try:
        value = json.loads(blocks[0].text if alone else completion, parse_constant=_refuse)
    except ValueError as error:
        return 0.0, f"not JSON: {error}"[:200]
    # An empty registry: by default a $ref to a web address is fetched.
    first = next(iter(validator(wanted, registry=referencing.Registry()).iter_errors(value)), None)
    return (1.0, "satisfies the schema") if first is None else (0.0, f"{first.json_path}: {first.message}"[:200])


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
