"""Counts of rows and tokens of a plan: measured where a stage is there, an upper bound where it has to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.config import PracticePrompts, PromptFile
from posttrain.core.prompts import read_prompts
from posttrain.store.artifacts import Artifact

Counts = tuple[int | None, int | None]
MEASURED_ROWS = ("num_rows", "num_completions", "num_prompts", "num_preferences", "num_pairs", "scored", "preferences")


def estimate(planned: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return label, stage, address, status, rows and tokens of every planned stage.

    Rows are those that a stage writes or trains on. Tokens are completion tokens for sampling (at most
    max_completion_tokens a row) and are unknown where nothing bounds them.
    """
    known: dict[str, Counts] = {}
    rows: list[dict[str, Any]] = []
    for stage in planned:
        artifact: Artifact = stage["artifact"]
        counts = _measured(artifact.metrics) if artifact.manifest else _bound(stage, known)
        known[artifact.reference] = counts
        row = {key: stage[key] for key in ("label", "stage", "address", "status")}
        rows.append({**row, "rows": counts[0], "tokens": counts[1]})
    return rows


def _measured(metrics: Mapping[str, Any]) -> Counts:
    rows = next((metrics[name] for name in MEASURED_ROWS if isinstance(metrics.get(name), int)), None)
    tokens = metrics.get("num_tokens")
    return rows, int(tokens) if isinstance(tokens, (int, float)) else None


def _bound(stage: Mapping[str, Any], known: Mapping[str, Counts]) -> Counts:
    config, name = stage["config"], stage["stage"]
    if name == "source_prompts":
        return -(-_source_rows(config["source"]) // config["num_parts"]), None
    if name in ("self_instruct", "magpie"):
        generator = config["generator"]
        return generator.num_prompts, generator.num_prompts * generator.max_completion_tokens
    if name == "clean_prompts":
        return _at_most(config["num_prompts"], _inputs(stage, known, "written")), None
    if name == "sample":
        prompts = _inputs(stage, known, "prompts")
        samples = None if prompts is None else prompts * config["sampling"]["num_completions"]
        return samples, None if samples is None else samples * config["sampling"]["max_completion_tokens"]
    if name == "practice_model":
        return None, config["model"].steps * config["model"].batch_tokens
    source = {"select": "scored", "sft": "selected", "dpo": "selected", "reward_model": "preferences", "win_rate": "a"}
    source["gold"] = "scored"
    return _inputs(stage, known, source.get(name, "completions")), None


def _inputs(stage: Mapping[str, Any], known: Mapping[str, Counts], name: str) -> int | None:
    inputs = stage["inputs"].get(name)
    artifacts = [inputs] if isinstance(inputs, Artifact) else inputs or []
    counts = [known.get(artifact.reference, (None, None))[0] for artifact in artifacts]
    numbers = [count for count in counts if count is not None]
    return sum(numbers) if numbers and len(numbers) == len(counts) else None


def _at_most(limit: int, count: int | None) -> int:
    return limit if count is None else min(limit, count)


def _source_rows(source: PromptFile | PracticePrompts) -> int:
    if source.num_prompts is not None:
        return source.num_prompts
    assert isinstance(source, PromptFile)
    return len(read_prompts(source.path)[0])
