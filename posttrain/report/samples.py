"""The browser of samples: what the models said, how it was scored, what was chosen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from markupsafe import escape

from posttrain.report.blocks import MISSING, Browser, Section, Text, not_yet, number, plain_text
from posttrain.report.judged import shown_model

MAX_TEXT = 3000  # characters of one text on the page
MAX_BYTES = 3_000_000  # of all samples together, as they stand in the page: keeps it under 5 MB
FILTERS = ("kind", "round", "family", "verdict")
MARKUP_BYTES = 400  # of tags around a prompt or a completion


def samples_section(run: Mapping[str, Any]) -> Section:
    """Lay samples out side by side, with filters by round, family and verdict, and a search."""
    rows = list(run.get("samples") or [])
    if not rows:
        return Section("samples", "Samples", [not_yet("Samples")])
    samples, size = [], 0
    for row in interleaved(rows):
        sample = view(row)
        size += sum(len(escape(text).encode()) + MARKUP_BYTES for text in sample.pop("texts"))
        if size > MAX_BYTES:
            break
        samples.append(sample)
    filters = {name: _values(samples, name) for name in FILTERS}
    note = f"{len(samples)} prompts" + (f" of {len(rows)}, as many as fit." if len(samples) < len(rows) else ".")
    text = Text(
        "Prompts with all their samples as the reward model ordered them, and held-out prompts with the answers of a "
        "round and of the base, where the verdict is the judge's on the round."
    )
    return Section("samples", "Samples", [text, Browser(samples, {k: v for k, v in filters.items() if v}, note)])


def interleaved(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Take the rows of all rounds and kinds in turn, so that what does not fit is missing from each alike."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((str(row.get("kind") or ""), str(row.get("round", ""))), []).append(row)
    return [row for turn in zip_longest(*groups.values()) for row in turn if row is not None]


def view(row: Mapping[str, Any]) -> dict[str, Any]:
    """Bring a row into the shape that the page shows: texts cut, marks worked out, nothing missing."""
    chosen, rejected = row.get("chosen"), row.get("rejected")
    completions = [
        _completion(entry, place, chosen, rejected) for place, entry in enumerate(row.get("completions") or [])
    ]
    if not any(completion["side"] for completion in completions) and len({c["model"] for c in completions}) == 1:
        for completion in completions:  # a model that answered alone needs no naming on each answer
            completion["model"] = ""
    prompt = _messages(row.get("prompt"))
    gold = row.get("gold")
    texts = [text for _, text in prompt] + [completion["text"] for completion in completions]
    return {
        "id": plain_text(row.get("prompt_id") or ""),
        "kind": plain_text(row.get("kind") or ""),
        "round": plain_text(row.get("round", "")),
        "family": plain_text(row.get("family") or ""),
        "verdict": plain_text(row.get("verdict") or ""),
        "prompt": prompt,
        "completions": completions,
        "gold": None if gold is None else cut(gold if isinstance(gold, str) else number(gold)),
        "texts": texts,
    }


def _completion(entry: object, place: int, chosen: object, rejected: object) -> dict[str, Any]:
    fields: Mapping[str, Any] = entry if isinstance(entry, Mapping) else {"text": entry}
    text = fields.get("text", fields.get("completion"))
    shown = "\n".join(part for _, part in _messages(text))
    mark = ""
    for name, value in (("chosen", chosen), ("rejected", rejected)):
        if _is(value, place, text) or fields.get(name) is True or fields.get("role") == name:
            mark = name
    return {
        "text": shown,
        "mark": mark,
        "score": number(fields.get("score")) if fields.get("score") is not None else MISSING,
        "gold": number(fields["gold"]) if fields.get("gold") is not None else None,
        "model": plain_text(shown_model(fields.get("model") or "")),
        "count": fields.get("count") or 1,
        "side": fields["side"] if fields.get("side") in ("a", "b") else "",
    }


def _is(value: object, place: int, text: object) -> bool:
    """Tell whether a row's `chosen` means this completion: by its place, or by its content."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value == place
    return value is not None and value == text


def _messages(value: object) -> list[tuple[str, str]]:
    """Give (role, text) of a conversation, of one message or of bare text."""
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [(plain_text(turn.get("role", "")), cut(turn.get("content") or "")) for turn in value]
    return [("", cut("" if value is None else value))]


def cut(value: object) -> str:
    """Cut a text that is too long for the page, and say so."""
    text = plain_text(value)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}… [{len(text) - MAX_TEXT} more characters]"


def _values(samples: Iterable[Mapping[str, Any]], name: str) -> list[str]:
    return sorted({sample[name] for sample in samples} - {""})
