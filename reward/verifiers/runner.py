"""Run a verifier over rows: a score per row, or the error that kept it from having one."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import threading
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from posttrain.core.errors import Faults
from reward.errors import RewardError, TooManyErrors
from reward.ids import Row, completion_text
from reward.verifiers.process import Outcome, VerifierProcess
from reward.verifiers.record import Record
from reward.verifiers.settings import BUILT_INS, VerifierSettings

_HOPELESS = 20
"""A verifier that failed on its first twenty rows is broken; each further row could cost its whole time limit."""

_SUSPICIOUS = 20
"""From this many rows, equal scores throughout are more likely a fault of the verifier than a finding."""

_BLOCK = 64
"""Rows that a worker takes at once; fewer where there are few."""

_DEFAULTS = VerifierSettings()

Outcomes = Generator[Outcome, None, None]

log = logging.getLogger(__name__)


def run_verifier(
    spec: str,
    rows: Iterable[Mapping[str, Any]],
    settings: VerifierSettings = _DEFAULTS,
    journal: Path | None = None,
    where: str = "the rows",
) -> list[Row]:
    """Score rows with `verify(prompt, completion, row)` in child processes.

    A verifier that hangs is killed with everything it started, one that crashes or raises costs its row only; both
    give `error`, never a score of 0. Works from any thread. Where all scores are equal a warning says so.

    Args:
        spec: `FILE.py:FUNCTION`, `package.module:function`, or a name in `BUILT_INS`.
        rows: COMPLETION rows; the whole row is passed on, so a `reference` column can be read.
        settings: options of the function, limits of time, memory and errors, and how many children run at once.
        journal: file that keeps each outcome as it comes; a later call with the same question goes on from there, and
            tries rows again that were errors. It is left there.
        where: what the rows are, for messages; a file's name for example.

    Returns:
        The rows in input order with `score` (and `reason`, where the verifier gives one), or with `score` None and
        `error`.

    Raises:
        RewardError: the verifier cannot be imported, or rows cannot go to it; all such rows are named.
        TooManyErrors: more rows failed than `max_error_rate` allows; its `rows` holds what was scored until then.
    """
    copies = [dict(row) for row in rows]
    lines = _lines(copies, where)
    results: list[Row] = []
    num_errors = 0
    with Record(journal, _asked(spec, settings.options)) as record:
        outcomes = _recorded(BUILT_INS.get(spec, spec), lines, settings, record)
        try:
            for outcome in outcomes:
                results.append(_with_outcome(copies[len(results)], outcome))
                num_errors += "error" in outcome
                hopeless = num_errors == len(results) == _HOPELESS < len(copies)
                if hopeless or num_errors > settings.max_error_rate * len(copies):
                    told = _too_many(spec, results, num_errors, len(copies), settings)
                    raise TooManyErrors(told, results)
        finally:
            outcomes.close()
    _warn_if_all_equal(spec, results)
    return results


def _asked(spec: str, options: Mapping[str, Any]) -> str:
    """Return what is asked of a verifier: its name, its file's content and its options."""
    file = _file_of(BUILT_INS.get(spec, spec).rpartition(":")[0])
    content = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
    return json.dumps([spec, content, dict(options)], sort_keys=True)


def _file_of(place: str) -> Path:
    """Return the file of `FILE.py` or of `package.module`, which is found without being imported (its package is)."""
    if place.endswith(".py"):
        return Path(place)
    try:
        found = importlib.util.find_spec(place)
    except Exception:  # whatever the user's package raises when it is imported, the child says it
        found = None
    if found is not None and found.origin is not None:
        return Path(found.origin)
    return Path(place.replace(".", "/") + ".py")  # where the user stands, which only the child has on its path


def _recorded(spec: str, lines: list[bytes], settings: VerifierSettings, record: Record) -> Outcomes:
    """Yield every row's outcome in order: the one on record, or a new one, which is put on record first."""
    known = [record.known(line) for line in lines]
    missing = [line for line, outcome in zip(lines, known, strict=True) if outcome is None]
    fresh = _outcomes(spec, missing, settings)
    try:
        for line, outcome in zip(lines, known, strict=True):
            if outcome is None:
                outcome = next(fresh)
                record.add(line, outcome)
            yield outcome
    finally:
        fresh.close()


def _outcomes(spec: str, lines: list[bytes], settings: VerifierSettings) -> Outcomes:
    stop = threading.Event()
    if settings.workers == 1:
        yield from _block(spec, lines, settings, stop)
        return
    size = max(1, min(_BLOCK, -(-len(lines) // settings.workers)))
    blocks = [lines[start : start + size] for start in range(0, len(lines), size)]
    with ThreadPoolExecutor(settings.workers) as pool:
        futures = [pool.submit(lambda block: list(_block(spec, block, settings, stop)), block) for block in blocks]
        try:
            for future in futures:
                yield from future.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _block(spec: str, lines: Sequence[bytes], settings: VerifierSettings, stop: threading.Event) -> Outcomes:
    done = 0
    while done < len(lines) and not stop.is_set():
        with VerifierProcess(spec, settings.options, settings.timeout_s, settings.memory_mb) as process:
            for outcome in process.ask(lines[done:]):
                done += 1
                yield outcome
                if stop.is_set():
                    return


def _lines(rows: list[Row], where: str) -> list[bytes]:
    faults, lines = Faults(where), []
    for number, row in enumerate(rows, start=1):
        missing = [f"`{key}`" for key in ("prompt", "completion") if key not in row]
        if missing:
            faults.add(f"row {number} has no {' and no '.join(missing)}, which a verifier needs")
            continue
        try:
            completion_text(row["completion"])
            lines.append(json.dumps({"prompt": row["prompt"], **row}).encode() + b"\n")
        except (ValueError, TypeError) as error:  # DataError is a ValueError; the others are json's
            faults.add(f"row {number} cannot go to a verifier: {error}")
    faults.raise_if_any(RewardError)
    return lines


def _with_outcome(row: Row, outcome: Outcome) -> Row:
    kept = {key: value for key, value in row.items() if key not in ("score", "error", "reason")}
    return {**kept, "score": None, **outcome}


def _too_many(spec: str, results: list[Row], num_errors: int, num_rows: int, settings: VerifierSettings) -> str:
    first, *more = str(next(row["error"] for row in results if row.get("error"))).splitlines() or [""]
    options = f" with the options {dict(settings.options)}" if settings.options else ""
    return (
        f"verifier {spec!r}{options} failed on {num_errors} of the first {len(results)} rows (of {num_rows}; at most "
        f"{settings.max_error_rate:.0%} may fail). The first error: {first}{' …' if more else ''}. Mend the verifier"
        f"{' or its options' if options else ''}, or raise its max_error_rate (a key beside `function` in a recipe, "
        f"?max_error_rate= behind the name on the command line)."
    )


def _warn_if_all_equal(spec: str, results: list[Row]) -> None:
    scores = {row["score"] for row in results if row["score"] is not None}
    if len(results) >= _SUSPICIOUS and len(scores) == 1:
        log.warning(
            "verifier %r gave all of %d rows the score %g: nothing can be told apart by it. Look at its options and at "
            "a few rows.", spec, len(results), scores.pop(),
        )  # fmt: skip
