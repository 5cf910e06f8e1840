"""A row's way through a run as plain data: written, cleaned, sampled, scored, chosen, trained on, judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain.lineage.graph import Graph, Node
from posttrain.lineage.samplings import is_of_sample, samplings
from posttrain.lineage.trained import by_way_of, trained

Row = dict[str, Any]
Rows = dict[str, dict[str, list[Row]]]
"""Rows of one prompt, by artifact and file name."""

GENERATORS = ("self_instruct", "magpie")
VERDICT_COLUMNS = ("preference", "verdict", "length_a", "length_b", "reason", "drop_reason")


def tell_story(graph: Graph, prompt_id: str, sample_index: int | None) -> dict[str, Any]:
    """Return all that the run knows of a prompt, or of one of its samples, as plain JSON.

    Keys:
        prompt_id, sample_index: Of what is followed; the index is None for all samples.
        prompt: Its messages; None where no file holds them.
        written: Where the prompt came from: generator or file, teacher, template, seeds shown.
        cleaning: Whether it was kept, and why not; what it duplicates.
        samplings: Each drawing of samples, with scores, ranks and what was decided on each sample.
        trained: Checkpoints that rows of it trained.
        by_way_of: Checkpoints that start from one of these, or learn from rows that one of these wrote or scored.
        verdicts: On a held-out prompt, who won.
        elsewhere: Files of other stages that hold rows of it.
        lost: Artifacts of the run that are gone, and so are not told of.
    """
    rows = rows_of(graph, prompt_id)
    direct = trained(graph, rows, sample_index)
    story = {
        "run": graph.run.name,
        "prompt_id": prompt_id,
        "sample_index": sample_index,
        "prompt": _prompt(rows),
        "written": [_origin(graph, node, name, row) for node, name, row in _written(graph, rows)],
        "cleaning": _cleaning(graph, rows),
        "samplings": samplings(graph, rows, sample_index),
        "trained": direct,
        "by_way_of": by_way_of(graph, [item["artifact"] for item in direct]),
        "verdicts": _verdicts(graph, rows),
    }
    return story | {"elsewhere": _elsewhere(graph, rows, sample_index), "lost": graph.run.lost}


def rows_of(graph: Graph, prompt_id: str) -> Rows:
    """Return every row of a prompt in the run."""
    found: Rows = {}
    for reference, files in graph.indexes.items():
        for name, index in files.items():
            rows = index.rows(prompt_id)
            if rows:
                found.setdefault(reference, {})[name] = rows
    return found


def _prompt(rows: Rows) -> Any:
    return next(
        (row["prompt"] for files in rows.values() for row in sum(files.values(), []) if row.get("prompt")), None
    )


def _written(graph: Graph, rows: Rows) -> list[tuple[Node, str, Row]]:
    """Return where the prompt was written; a row that the cleaning renamed is followed to its own first name."""
    stages = (*GENERATORS, "source_prompts")
    found = [
        (graph.nodes[reference], name, row)
        for reference, files in rows.items()
        for name, held in files.items()
        if graph.nodes[reference].stage in stages
        for row in held
    ]
    for reference, files in rows.items():
        for row in sum(files.values(), []):
            if graph.nodes[reference].stage == "clean_prompts" and row.get("renamed_from"):
                found += _before_renaming(graph, reference, row)
    return found


def _before_renaming(graph: Graph, cleaned: str, row: Row) -> list[tuple[Node, str, Row]]:
    return [
        (graph.nodes[reference], name, first)
        for reference in graph.nodes[cleaned].inputs("written")
        for name, index in graph.indexes.get(reference, {}).items()
        for first in index.rows(row["renamed_from"])
        if first.get("prompt") == row["prompt"]
    ]


def _origin(graph: Graph, node: Node, name: str, row: Row) -> dict[str, Any]:
    config = node.config
    entry: dict[str, Any] = {**node.place, "file": name}
    entry |= {key: row.get(key) for key in ("source", "round", "drop_reason")}
    if node.stage in GENERATORS:
        models = node.inputs("model")
        endpoint = config.get("endpoint") or {}
        entry["teacher"] = graph.name_of(models[0]) if models else endpoint.get("model")
        entry["generator"] = config["generator"]
        # The template's name does not count for the address: a file counts by its content.
        entry["template"] = config.get("content")
        entry |= {key: row[key] for key in ("request", "sample_index", "seed") if key in row}
        entry["shown"] = [
            {"prompt_id": item, "text": _text_of(graph, node, item)} for item in row.get("demonstrations", [])
        ]
    else:
        entry["origin"] = config.get("source")
        entry |= {key: row[key] for key in ("line", "reason") if key in row}
    return entry


def _text_of(graph: Graph, node: Node, prompt_id: str) -> str | None:
    """Return the text of a prompt that a generator showed: one of the seeds, or one that it wrote before."""
    for reference in [*node.inputs("seeds", "known"), node.reference]:
        index = graph.indexes.get(reference, {}).get("prompts.jsonl")
        for row in index.rows(prompt_id) if index else ():
            return str(row["prompt"][-1].get("content"))
    return None


def _cleaning(graph: Graph, rows: Rows) -> list[dict[str, Any]]:
    entries = []
    for reference, files in rows.items():
        node = graph.nodes[reference]
        if node.stage != "clean_prompts":
            continue
        for name, held in files.items():
            for row in held:
                decision = {
                    key: row[key] for key in ("drop_reason", "duplicate_of", "similarity", "renamed_from") if key in row
                }
                entries.append(
                    {**node.place, "kept": name == "prompts.jsonl", "round": node.config.get("round")} | decision
                )
    return entries


def _verdicts(graph: Graph, rows: Rows) -> list[dict[str, Any]]:
    """Return verdicts on a held-out prompt from any stage that names the two models it compares."""
    entries = []
    for reference, files in rows.items():
        node = graph.nodes[reference]
        for row in (row for held in files.values() for row in held if _is_verdict(row)):
            a, b = (node.artifact.metrics.get("names") or node.config.get("names") or (None, None))[:2]
            entry = {**node.place, "a": row.get("a", a), "b": row.get("b", b), "judge": _judge(graph, node)}
            entries.append(entry | {key: row[key] for key in VERDICT_COLUMNS if row.get(key) is not None})
    return entries


def _is_verdict(row: Mapping[str, Any]) -> bool:
    return "preference" in row and "completion" not in row


def _judge(graph: Graph, node: Node) -> str | None:
    """Return who judged: what the stage itself was told, or what scored the two sides that it compares."""
    for item in (node, *(graph.nodes[side] for side in node.inputs("a", "b") if side in graph.nodes)):
        judge = item.config.get("judge")
        if isinstance(judge, Mapping):
            model = judge.get("model") or {}
            named = judge.get("function") or model.get("path") or model.get("repo") or model.get("model")
            return f"{judge.get('kind')}:{named}" if named else str(judge.get("kind"))
        if isinstance(judge, str):
            return judge
        scorers = item.inputs("reward_model")
        if scorers:
            return f"reward_model:{graph.name_of(scorers[0])}"
    return None


def _elsewhere(graph: Graph, rows: Rows, sample_index: int | None) -> list[dict[str, Any]]:
    """Return rows that no other part of the story tells of, so that nothing that a new stage writes is hidden."""
    told = (*GENERATORS, "source_prompts", "clean_prompts", "sample", "score", "verify", "select", "label")
    return [
        {**graph.nodes[reference].place, "file": name, "row": row}
        for reference, files in rows.items()
        if graph.nodes[reference].stage not in told
        for name, held in files.items()
        for row in held
        if not _is_verdict(row) and is_of_sample(row, sample_index)
    ]
