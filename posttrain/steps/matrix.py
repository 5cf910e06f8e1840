"""After the rounds: every pair of models by one judge, a rating for all by that judge, and how far judges agree."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from posttrain.config import LabelsJudge, LLMJudge, RubricJudge, VerifierJudge
from posttrain.core.errors import DataError, Faults
from posttrain.core.files import atomic_write, read_rows, write_jsonl
from posttrain.evaluate.judge_agreement import judge_agreement
from posttrain.evaluate.labels import read_numbered_labels
from posttrain.evaluate.llm_judge import compare_by_llm
from posttrain.evaluate.matrix import (
    Verdicts,
    judge_pairs,
    matrix_entries,
    matrix_ratings,
    pairs_of,
    verdicts_of_labels,
    verdicts_of_scores,
)
from posttrain.stages import StageCall
from posttrain.steps.judging import open_pairwise, open_rubric
from posttrain.steps.verifying import JOURNAL as SCORES
from posttrain.steps.verifying import read_scored, score_counts, verify_rows
from reward.judges.asking import JOURNAL as REPLIES

Row = dict[str, Any]


def rate_answers(call: StageCall, judge: VerifierJudge | RubricJudge, content: str | None, seed: int) -> dict[str, Any]:
    """Score all models' answers by a verifier or a rubric judge; an answer that it could not judge has no score."""
    rows = [row for folder in call.inputs["completions"] for row in read_rows(folder / "completions.jsonl")]
    if isinstance(judge, VerifierJudge):
        scored = verify_rows(call, judge, rows)
    else:
        scored = open_rubric(call, call.inputs.get("judge"), judge, seed).rate(rows)
    write_jsonl(call.out / "scored.jsonl", scored)
    for journal in (SCORES, REPLIES):
        (call.out / journal).unlink(missing_ok=True)
    return score_counts(scored)


def matrix_of_scores(
    call: StageCall, judge_name: str, names: list[str], anchor: str, seed: int, num_bootstrap: int
) -> dict[str, Any]:
    """Compare every pair of models by the scores of their answers."""
    rows = [row for folder in call.inputs["scored"] for row in read_scored(folder)]
    completions = _completions(call, names)
    scored = _by_model(rows, completions)
    return _finish(call, judge_name, verdicts_of_scores(scored), completions, scored, anchor, seed, num_bootstrap)


def matrix_of_judge(
    call: StageCall,
    judge: LLMJudge,
    judge_name: str,
    content: str | None,
    names: list[str],
    anchor: str,
    num_prompts: int | None,
    seed: int,
    num_bootstrap: int,
) -> dict[str, Any]:
    """Let a language model compare every pair that it has not compared yet, in both orders; resumes reply by reply."""
    completions = _completions(call, names)
    opened = None

    def compare(a: list[Row], b: list[Row]) -> list[Row]:
        nonlocal opened
        opened = opened or open_pairwise(call, call.inputs.get("judge"), judge, judge.template, seed)
        return compare_by_llm(a, b, opened)

    known = _known(call.inputs["known"])
    verdicts: Verdicts = {}
    for pair, rows in judge_pairs(completions, compare, known, _first_by_hash(completions, num_prompts)):
        verdicts[pair] = rows
        call.progress(len(verdicts), len(pairs_of(names)))
    result = _finish(call, judge_name, verdicts, completions, {}, anchor, seed, num_bootstrap)
    (call.out / REPLIES).unlink(missing_ok=True)
    return result


def matrix_of_labels(
    call: StageCall,
    judge: LabelsJudge,
    judge_name: str,
    content: str,
    names: list[str],
    anchor: str,
    seed: int,
    num_bootstrap: int,
) -> dict[str, Any]:
    """Take people's labels of the run's models; pairs without labels stay out, those on other models are counted."""
    answers = _read_answers(call, names)
    same = _first_names(answers)
    labels = {
        line: {key: same.get(value, value) if key in ("a", "b") else value for key, value in row.items()}
        for line, row in read_numbered_labels(judge.path).items()
    }
    completions = {name: answers[name] for name in dict.fromkeys(same.values())}
    verdicts, left_out = verdicts_of_labels(labels, completions, judge.path)
    result = _finish(call, judge_name, verdicts, {}, {}, anchor, seed, num_bootstrap)
    return {**result, "labels_left_out": dict(left_out)}


def agree(call: StageCall, names: list[str], seed: int, num_bootstrap: int) -> dict[str, Any]:
    """Measure how far every two judges agree, on the pairs and prompts that both decided."""
    verdicts = {name: read_verdicts(folder) for name, folder in zip(names, call.inputs["matrices"], strict=True)}
    result = {"agreement": judge_agreement(verdicts, seed, num_bootstrap)}
    atomic_write(call.out / "agreement.json", json.dumps(result, indent=1) + "\n")
    return result


def read_verdicts(folder: Path) -> Verdicts:
    """Read the verdicts of a matrix, pair by pair."""
    rows = read_rows(folder / "verdicts.jsonl")
    return {pair: list(group) for pair, group in groupby(rows, key=lambda row: (row["a"], row["b"]))}


def _finish(
    call: StageCall,
    judge: str,
    verdicts: Verdicts,
    answers: Mapping[str, Sequence[Row]],
    scored: Mapping[str, Sequence[Row]],
    anchor: str,
    seed: int,
    num_bootstrap: int,
) -> dict[str, Any]:
    rows = [{"a": a, "b": b, **row} for (a, b), of_pair in verdicts.items() for row in of_pair]
    write_jsonl(call.out / "verdicts.jsonl", rows)
    result = {
        "matrix": [{**entry, "judge": judge} for entry in matrix_entries(verdicts, answers)],
        "ratings": matrix_ratings(verdicts, anchor, seed, num_bootstrap),
        "mean_scores": {name: score_counts(of_model)["mean_score"] for name, of_model in scored.items()},
    }
    atomic_write(call.out / "matrix.json", json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return result


def _completions(call: StageCall, names: Sequence[str]) -> dict[str, list[Row]]:
    """Read every model's answers; of names for the same weights the first is kept."""
    answers = _read_answers(call, names)
    return {name: answers[name] for name in dict.fromkeys(_first_names(answers).values())}


def _read_answers(call: StageCall, names: Sequence[str]) -> dict[str, list[Row]]:
    folders = call.inputs["completions"]
    answers = {name: read_rows(folder / "completions.jsonl") for name, folder in zip(names, folders, strict=True)}
    faults = Faults("the answers to the held-out prompts")
    for (name, rows), folder in zip(answers.items(), folders, strict=True):
        if not rows:
            faults.add(f"model {name} has none; {folder / 'rejects.jsonl'} says why its prompts were rejected")
    faults.raise_if_any(DataError)
    return answers


def _first_names(answers: Mapping[str, Sequence[Row]]) -> dict[str, str]:
    """Map each name to the first one for the same model; a model's rows carry its identity."""
    first: dict[str, str] = {}
    return {name: first.setdefault(rows[0]["model"], name) for name, rows in answers.items()}


def _by_model(rows: Iterable[Row], completions: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]]:
    """Sort scored rows by the model that wrote them; of samples that two names of a model share, one each."""
    groups: dict[str, dict[tuple[str, int | None], Row]] = {}
    for row in rows:
        groups.setdefault(row["model"], {}).setdefault((row["prompt_id"], row.get("sample_index")), row)
    lacking = [name for name, answers in completions.items() if answers[0]["model"] not in groups]
    if lacking:
        raise DataError(
            f"none of the held-out answers of {', '.join(lacking)} has been scored, so they cannot be compared; "
            "look at the judge's errors"
        )
    return {name: list(groups[answers[0]["model"]].values()) for name, answers in completions.items()}


def _known(folders: Iterable[Path]) -> Verdicts:
    """Read what the gate's judge has decided in the rounds; a model that met itself is no pair."""
    found: Verdicts = {}
    for folder in folders:
        a, b = json.loads((folder / "win_rate.json").read_text(encoding="utf-8"))["names"]
        if a != b:
            found[a, b] = read_rows(folder / "verdicts.jsonl")
    return found


def _first_by_hash(completions: Mapping[str, Sequence[Row]], num_prompts: int | None) -> Callable[[str], bool]:
    """Choose prompts by the hash of their ids: the same ones for every pair, whatever their order."""
    shared = set.intersection(*({row["prompt_id"] for row in rows} for rows in completions.values()))
    if not shared:
        raise DataError("no held-out prompt was answered by all models; look at the rejects of their eval/completions")
    order = sorted(shared, key=lambda prompt_id: hashlib.sha256(prompt_id.encode()).hexdigest())
    return set(order[:num_prompts]).__contains__
