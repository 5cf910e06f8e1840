"""What a person should know of a run before believing its table: who judged, why a round was held, what has drifted."""

from __future__ import annotations

from collections.abc import Iterator

from posttrain.evaluate.gate import caution
from posttrain.evaluate.win_rate import told_left_out
from posttrain.kept import decisions
from posttrain.report.evaluation import agreement_of, drift_of, judges_of
from posttrain.runs import Run


def notes(found: Run) -> list[str]:
    """Return a line for each caution, held round, alarm, label left out, agreement of judges and flag of a server."""
    told = (_cautions, _held, _alarms, _not_judged, _left_out, _agreement, _servers)
    return [line for tell in told for line in tell(found)]


def _cautions(found: Run) -> Iterator[str]:
    for judge in judges_of(found):
        if judge["trained_against"]:
            yield caution("the gate's judge" if judge["main"] else f"the judge {judge['name']}")


def _held(found: Run) -> Iterator[str]:
    for entry in decisions(found):
        if entry["promoted"] is False:
            yield f"round {entry['round']}: {entry['reason']}"


def _alarms(found: Run) -> Iterator[str]:
    for row in drift_of(found):
        if row["alarm"]:
            yield f"ALARM: round {row['round']}, {row['measure']}: {row['reason']}."


def _agreement(found: Run) -> Iterator[str]:
    for row in agreement_of(found):
        if row["num_pairs"]:
            known = row["low"] is not None and row["high"] is not None
            interval = f"[{row['low']:.3f}, {row['high']:.3f}]" if known else "without an interval"
            yield (
                f"judges {row['judge_a']} and {row['judge_b']} agree on {row['agreement']:.0%} of {row['num_pairs']:,} "
                f"comparisons (Gwet's AC1 {row['ac1']:.3f} {interval})"
            )


def _not_judged(found: Run) -> Iterator[str]:
    for entry in decisions(found):
        rate = found.metrics(f"round_{entry['round']}/eval/win_rate_vs_previous") or {}
        if told := told_left_out(rate):
            yield f"round {entry['round']}: its win rate over the best before leaves out {told} (A is the round)."
        if rate.get("unreadable"):
            yield f"round {entry['round']}: {rate['unreadable']} verdicts on it and the best before are unreadable."


def _left_out(found: Run) -> Iterator[str]:
    for judge in judges_of(found):
        left_out = (found.metrics(f"evaluation/{judge['name']}/matrix") or {}).get("labels_left_out") or {}
        for names, number in left_out.items():
            yield f"judge {judge['name']}: {number} labels are on another {names} than this run's and are left out."


def _servers(found: Run) -> Iterator[str]:
    for label, artifact in found.artifacts():
        metrics = artifact.metrics or {}
        if (metrics.get("sampling") or {}).get("engine_kind") == "openai":
            yield from (f"{label}: {flag}" for flag in metrics.get("flags") or ())
