"""Run a verifier over rows: a score per row, or the error that kept it from having one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from reward.errors import RewardError, TooManyErrors
from reward.ids import Row, completion_text
from reward.verifiers.process import Outcome, VerifierProcess

BUILT_INS = {
    "exact": "reward.verifiers.exact:verify",
    "number": "reward.verifiers.number:verify",
    "regex": "reward.verifiers.regex:verify",
    "json_schema": "reward.verifiers.json_schema:verify",
    "math": "reward.verifiers.math:verify",
    "code": "reward.verifiers.code:verify",
}
"""Short names of the verifiers of this package."""

_HOPELESS = 20
"""A verifier that failed on its first twenty rows is broken; each further row could cost its whole time limit."""


def run_verifier(
    spec: str,
    rows: Iterable[Mapping[str, Any]],
    timeout_s: float = 10.0,
    max_error_rate: float = 0.1,
    memory_mb: int = 4096,
    options: Mapping[str, Any] | None = None,
) -> list[Row]:
    """Score rows with `verify(prompt, completion, row)` in a child process.

    A verifier that hangs is killed with everything it started, one that crashes or raises costs its row only; both
    give `error`, never a score of 0. Works from any thread.

    Args:
        spec: `FILE.py:FUNCTION`, `package.module:function`, or a name in `BUILT_INS`.
        rows: COMPLETION rows; the whole row is passed on, so a `reference` column can be read.
        timeout_s: seconds for one row.
        max_error_rate: share of rows that may fail.
        memory_mb: address space of the child, in MiB.
        options: further keyword arguments for the function.

    Returns:
        The rows in input order with `score` (and `reason`, where the verifier gives one), or with `score` None and
        `error`.

    Raises:
        RewardError: the verifier cannot be imported.
        TooManyErrors: more rows failed than `max_error_rate` allows; its `rows` holds what was scored until then.
    """
    copies = [dict(row) for row in rows]
    results: list[Row] = []
    num_errors = 0
    for outcome in _outcomes(BUILT_INS.get(spec, spec), copies, timeout_s, memory_mb, options or {}):
        results.append(_with_outcome(copies[len(results)], outcome))
        num_errors += "error" in outcome
        hopeless = num_errors == len(results) == _HOPELESS < len(copies)
        if hopeless or num_errors > max_error_rate * len(copies):
            raise TooManyErrors(_too_many(spec, results, num_errors, len(copies), max_error_rate), results)
    return results


def _outcomes(
    spec: str, rows: list[Row], timeout_s: float, memory_mb: int, options: Mapping[str, Any]
) -> Iterator[Outcome]:
    lines = [_line(row, number) for number, row in enumerate(rows, start=1)]
    done = 0
    while done < len(lines):
        with VerifierProcess(spec, options, timeout_s, memory_mb) as process:
            for outcome in process.ask(lines[done:]):
                done += 1
                yield outcome


def _line(row: Row, number: int) -> bytes:
    try:
        completion_text(row["completion"])
        return json.dumps({"prompt": row["prompt"], **row}).encode() + b"\n"
    except (KeyError, ValueError, TypeError) as error:
        raise RewardError(
            f"row {number} cannot go to a verifier: {type(error).__name__} {error}; it needs `prompt`, `completion` "
            "and nothing that JSON has no form for."
        ) from error


def _with_outcome(row: Row, outcome: Outcome) -> Row:
    kept = {key: value for key, value in row.items() if key not in ("score", "error", "reason")}
    return {**kept, "score": None, **outcome}


def _too_many(spec: str, results: list[Row], num_errors: int, num_rows: int, max_error_rate: float) -> str:
    first = next(row["error"] for row in results if row.get("error"))
    return (
        f"verifier {spec!r} failed on {num_errors} of the first {len(results)} rows (of {num_rows}; at most "
        f"{max_error_rate:.0%} may fail). The first error: {first}. Mend the verifier, or raise max_error_rate."
    )
