"""Follow a row through a run: from its prompt to the checkpoints it trained."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from posttrain.core.files import read_jsonl
from posttrain.store.artifacts import Artifact

Row = Mapping[str, Any]
# What a file's rows mean for the row that is followed.
TRAINING_FILES = {"sft": "sft.jsonl", "dpo": "pairs.jsonl", "reward_model": "preferences.jsonl"}
SHOWN = (
    "score",
    "margin",
    "strength",
    "strengths",
    "scores",
    "preference",
    "length_a",
    "length_b",
    "chosen_score",
    "rejected_score",
    "finish_reason",
    "drop_reason",
    "similarity",
    "duplicate_of",
)


def trace_row(artifacts: Sequence[tuple[str, Artifact]], row_id: str) -> list[str]:
    """Return lines that tell a row's way: where its prompt came from, its samples and scores, what was chosen or
    dropped and why, and which checkpoints it trained.

    Args:
        artifacts: Label and artifact of every stage of the run, in order.
        row_id: A prompt_id, or prompt_id:sample_index.
    """
    prompt_id, _, index = row_id.rpartition(":")
    of_prompt = _trace(artifacts, row_id, None)  # a prompt's own id may hold a colon
    return of_prompt if of_prompt or not index.isdecimal() else _trace(artifacts, prompt_id, int(index))


def _trace(artifacts: Sequence[tuple[str, Artifact]], prompt_id: str, sample_index: int | None) -> list[str]:
    lines: list[str] = []
    holders: dict[tuple[str, str], int] = {}
    told: set[str] = set()
    for label, artifact in artifacts:
        if artifact.reference in told:
            continue
        told.add(artifact.reference)
        for path in sorted(artifact.path.glob("*.jsonl")):
            rows = [row for row in _rows_of(path, prompt_id) if _is_asked(row, sample_index)]
            if rows:
                holders[artifact.reference, path.name] = len(rows)
                lines.append(f"{label}  ({artifact.reference}/{path.name})")
                lines += [f"    {_tell(row)}" for row in rows]
        trained = _rows_trained(artifact, holders)
        if trained:
            lines.append(f"{label}  trained on {trained} row{'s' if trained > 1 else ''} of it  ({artifact.reference})")
    return lines


def _rows_of(path: Any, prompt_id: str) -> Iterator[Row]:
    """Yield the file's rows with this prompt_id; lines without the text are not even parsed."""
    needle = json.dumps(prompt_id, ensure_ascii=False).encode()
    with open(path, "rb") as file:
        if not any(needle in line for line in file):
            return
    for _, row in read_jsonl(path):
        if row.get("prompt_id") == prompt_id:
            yield row


def _is_asked(row: Row, sample_index: int | None) -> bool:
    """Tell whether a row belongs to the sample that is followed; rows of the whole prompt always do."""
    if sample_index is None:
        return True
    indices = [
        row[key] for key in ("sample_index", "chosen_sample_index", "rejected_sample_index") if row.get(key) is not None
    ]
    return not indices or sample_index in indices


def _rows_trained(artifact: Artifact, holders: Mapping[tuple[str, str], int]) -> int:
    """Count the row's rows in the inputs that a training stage learned from."""
    name = TRAINING_FILES.get(artifact.stage)
    if name is None or artifact.manifest is None:
        return 0
    inputs = artifact.manifest["asked"]["inputs"]
    references = [item for value in inputs.values() for item in (value if isinstance(value, list) else [value])]
    return sum(holders.get((reference, name), 0) for reference in references)


def _tell(row: Row) -> str:
    facts = [f"{key} {_short(row[key])}" for key in SHOWN if row.get(key) is not None]
    where = [f"{key} {row[key]}" for key in ("source", "round", "sample_index", "model") if row.get(key) is not None]
    texts = []
    for key in ("prompt", "completion", "chosen", "rejected"):
        messages = row.get(key)
        if (
            isinstance(messages, list)
            and messages
            and (key != "prompt" or "completion" not in row and "chosen" not in row)
        ):
            texts.append(f"{key}: {_said(messages)}")
    texts += [f"rank {rank}: {_said(answer)}" for rank, answer in enumerate(row.get("completions") or [], start=1)]
    return " · ".join([*where, *facts, *texts])


def _said(messages: Sequence[Row]) -> str:
    return " / ".join(str(message.get("content")) for message in messages)


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_short(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
