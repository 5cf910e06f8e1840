"""A row's or a checkpoint's story as text for a person."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Entry = Mapping[str, Any]
SHORT = 160
"""Characters of a text among many; the one that is asked for is shown whole."""


def story_lines(story: Entry) -> list[str]:
    """Return a row's story (`posttrain.lineage.story.tell_story`) as lines; a heading starts in the first column."""
    whole = story["sample_index"] is not None
    sample = f", sample {story['sample_index']}" if whole else ""
    lines = [f"prompt {story['prompt_id']}{sample}"]
    lines += [f"  {line}" for line in _messages(story["prompt"]).splitlines()]
    lines += _section("written", (line for entry in story["written"] for line in _written(entry)))
    lines += _section("cleaning", map(_cleaned, story["cleaning"]))
    lines += _section("sampled", (line for entry in story["samplings"] for line in _sampling(entry, whole)))
    nothing = [] if story["trained"] or not story["samplings"] else ["no row of it trained a model"]
    lines += _section("trained", [*map(_trained, story["trained"]), *nothing])
    lines += _section("by way of these", map(_by_way_of, story["by_way_of"]))
    lines += _section("judged", map(_verdict, story["verdicts"]))
    return lines + _section("elsewhere", map(_other, story["elsewhere"]))


def checkpoint_lines(told: Entry) -> list[str]:
    """Return what trained a checkpoint (`posttrain.lineage.checkpoint.tell_checkpoint`) as lines."""
    lines = [f"model {told['model']}  ({told['artifact']})"]
    if len(told["weights"]) > 1:
        lines.append(f"  in its weights: {' ← '.join(told['weights'])}")
    if not told["trained"]:
        still = ", of those that are still there," if told["lost"] else ""
        lines.append(f"  no row of run {told['run']}{still} trained it")
    lines += _section("trained on", (_stage(entry) for entry in told["trained"]))
    if told["counts"]:
        head = ("stage", "role", "round", "source", "written by", "answers")
        keys = ("stage", "role", "round", "source", "written_by", "answers")
        lines += _section(
            "by stage, round, source and writer", table(head, [[row[key] for key in keys] for row in told["counts"]])
        )
    if told["by_way_of"]:
        titles = ("model", "rows it learned", "what it did for this one")
        rows = [[entry["model"], entry["rows"], ", ".join(entry["did"])] for entry in told["by_way_of"]]
        lines += _section("by way of models that are not in its weights", table(titles, rows))
    return lines


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return aligned lines: numbers to the right, texts to the left, the last column as long as it is."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(row[column]) for row in [list(head), *cells]) for column in range(len(head))]
    right = [all(isinstance(row[column], int | float | None) for row in rows) for column in range(len(head))]
    lines = []
    for row in [list(head), *cells]:
        parts = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(parts).rstrip())
    return lines


def _section(title: str, lines: Iterator[str] | Sequence[str] | Any) -> list[str]:
    found = [f"  {line}" for line in lines]
    return ["", title, *found] if found else []


def _place(entry: Entry) -> str:
    return f"{entry['label']}  ({entry['artifact']})"


def _written(entry: Entry) -> Iterator[str]:
    facts = [
        f"{key} {entry[key]}"
        for key in ("source", "round", "request", "sample_index", "seed", "line")
        if entry.get(key) is not None
    ]
    yield f"{_place(entry)}  {' · '.join(facts)}"
    if entry.get("teacher") is not None:
        yield f"    teacher {entry['teacher']}"
    if entry.get("template"):
        yield f"    template {entry['template']}"
    settings = entry.get("generator") or entry.get("origin")
    if settings:
        yield f"    {_facts(settings)}"
    for shown in entry.get("shown", []):
        yield f"    shown {shown['prompt_id']}: {_short(shown['text'])}"
    for key in ("drop_reason", "reason"):
        if entry.get(key):
            yield f"    dropped: {entry[key]}"


def _cleaned(entry: Entry) -> str:
    if entry["kept"]:
        renamed = f" (its id was taken; it was {entry['renamed_from']})" if entry.get("renamed_from") else ""
        return f"{_place(entry)}  kept{renamed}"
    facts = [f"{key.replace('_', ' ')} {_number(entry[key])}" for key in ("duplicate_of", "similarity") if key in entry]
    return " · ".join([f"{_place(entry)}  dropped: {entry['drop_reason']}", *facts])


def _sampling(entry: Entry, whole: bool) -> Iterator[str]:
    settings = f"  {_facts(entry['sampling'])}" if entry["sampling"] else ""
    yield f"{_place(entry)}  model {entry['model']} · round {entry['round']}{settings}"
    yield from (f"    rejected: {reason}" for reason in entry["rejects"])
    yield from (f"    scores: {_place(item)}  by {item['by']}" for item in entry["scored_by"])
    yield from (f"    selection: {_place(item)}  {_facts(item['selection'])}" for item in entry["selected_by"])
    yield from (f"    labels: {_place(item)}  by {_facts(item['annotator'])}" for item in entry["labelled_by"])
    for sample in sorted(entry["samples"], key=_best_first):
        ranks = [f"score {_number(item['score'])} (rank {item['rank']} of {item['of']})" for item in sample["scores"]]
        ranks += [
            f"no score: {item.get('error') or item.get('reason')}" for item in sample["scores"] if item["score"] is None
        ]
        end = {"stop": "ended", "length": "cut at the token limit"}.get(sample.get("finish_reason"), "")
        decisions = [_decision(item, entry["model"]) for item in sample["decisions"]]
        yield "    " + " · ".join(
            [
                f"sample {sample['sample_index']}",
                *ranks,
                *decisions,
                *([end] if end == "cut at the token limit" else []),
            ]
        )
        said = _messages(sample.get("completion"))
        yield from (f"        {line}" for line in (said.splitlines() if whole else [_short(said)]))


def _best_first(sample: Entry) -> tuple[Any, ...]:
    ranks = [item["rank"] for item in sample["scores"] if item["rank"] is not None]
    return (ranks[0] if ranks else float("inf"), sample["sample_index"])


def _decision(entry: Entry, model: str) -> str:
    """Return what was decided on a sample that this model drew."""
    if entry["decision"] == "sft":
        return "SFT row"
    if entry["decision"] == "dropped":
        return f"dropped: {entry['drop_reason']}"
    other = f"sample {entry['other']}"
    if entry["other"] is None:
        other = "an edited answer"
    elif entry["other_model"] not in (None, model):
        other += f" of {entry['other_model']}"
    said = f"chosen over {other}" if entry["decision"] == "chosen" else f"rejected for {other}"
    facts = [f"{key} {_number(entry[key])}" for key in ("margin", "strength") if key in entry]
    return f"{said} ({', '.join(facts)})" if facts else said


def _trained(entry: Entry) -> str:
    number = entry["rows"]
    sources = ", ".join(f"{item['label']}/{item['file']}" for item in entry["from"])
    return f"{_place(entry)}  trained on {number} row{'s' if number > 1 else ''} of it, from {sources}"


def _by_way_of(entry: Entry) -> str:
    how = {"weights": "goes on from", "data": "learned from what was written, scored or labelled after"}[entry["how"]]
    return f"{_place(entry)}  {how} {', '.join(entry['from'])}"


def _verdict(entry: Entry) -> str:
    facts = [
        f"{key.replace('_', ' ')} {_number(entry[key])}"
        for key in ("preference", "verdict", "reason", "drop_reason")
        if key in entry
    ]
    judge = f" · judge {entry['judge']}" if entry["judge"] else ""
    said = " · ".join(facts) or "unreadable"
    return f"{_place(entry)}  {entry['a']} against {entry['b']}: {said}{judge}"


def _other(entry: Entry) -> str:
    return f"{_place(entry)}  {entry['file']}: {_short(json.dumps(entry['row'], ensure_ascii=False))}"


def _messages(messages: Any) -> str:
    if not isinstance(messages, list):
        return str(messages)
    texts = [(message.get("role"), str(message.get("content"))) for message in messages]
    return texts[0][1] if len(texts) == 1 else "\n".join(f"{role}: {text}" for role, text in texts)


def _facts(settings: Any) -> str:
    """Return a section's values in a line, those that are absent left out."""
    if not isinstance(settings, Mapping):
        return str(settings)
    return " · ".join(f"{key} {_number(value)}" for key, value in settings.items() if value not in (None, [], {}))


def _short(text: Any) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= SHORT else line[: SHORT - 1] + "…"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _stage(entry: Entry) -> str:
    sources = ", ".join(f"{item['label']} {item['rows']:,}" for item in entry["from"])
    return f"{_place(entry)}  {entry['rows']:,} rows, {entry['answers']:,} answers: {sources}"
