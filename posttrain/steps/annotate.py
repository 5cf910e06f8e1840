"""Point 1 of a round: labels by a verifier, a judge, a reward model, or from a person's file."""

from __future__ import annotations

from typing import Any

from posttrain.config import Annotator, FileAnnotator, JudgeAnnotator, RewardModelAnnotator, VerifierAnnotator
from posttrain.core.chat import load_tokenizer
from posttrain.core.errors import DataError
from posttrain.core.files import read_rows, write_jsonl
from posttrain.core.formats import check_rows, normalize_prompt, prompt_id
from posttrain.core.models import load_reward_model
from posttrain.engines import device_of, use_threads
from posttrain.functions import load_function
from posttrain.stages import StageCall
from posttrain.steps.judging import judge_rows
from posttrain.steps.verifying import JOURNAL as SCORES
from posttrain.steps.verifying import verify_rows
from reward.judges.asking import JOURNAL as REPLIES
from reward.preferences import STRENGTHS, Labels, check_strength_names, label, rankings_to_pairs
from reward.score import score_rows

Row = dict[str, Any]


def label_completions(
    call: StageCall,
    annotator: Annotator,
    content: list[str | None],
    strengths: tuple[float, float, float, float],
    min_strength: str,
    num_pairs: int,
    seed: int,
    round: int,
) -> dict[str, Any]:
    """Label samples: edited > chosen > rejected, in four strengths, near-ties left out."""
    use_threads(call.execution)
    rows = _merged(call)
    edited: dict[str, str] = {}
    if isinstance(annotator, VerifierAnnotator):
        rows = verify_rows(call, annotator, rows)
        edited = _edits(annotator, rows)
    elif isinstance(annotator, RewardModelAnnotator):
        model = load_reward_model(call.inputs["model"], device=device_of(call.execution))
        tokenizer = load_tokenizer(call.inputs["model"])
        rows = score_rows(rows, model, tokenizer, call.execution.max_batch_tokens, date=call.template_date)
    elif isinstance(annotator, JudgeAnnotator):
        rows = judge_rows(call, annotator, rows, seed)
    labels = label(rows, strengths, min_strength, edited, num_pairs=num_pairs, seed=seed)
    return _write(call, labels, round)


def label_file(
    call: StageCall, annotator: FileAnnotator, content: str, round: int, min_strength: str
) -> dict[str, Any]:
    """Take rows that a person ranked, without held-out prompts and preferences weaker than `min_strength`."""
    rows = [_named(row) for row in read_rows(annotator.path)]
    rankings = [row for row in rows if row.get("completions") is not None]
    pairs = [row for row in rows if row.get("completions") is None]
    check_rows(rankings, "ranking", annotator.path)
    check_rows(pairs, "preference", annotator.path)
    check_strength_names(rows, annotator.path)
    held_out = {prompt_id(row["prompt"]) for row in read_rows(call.inputs["held_out"] / "prompts.jsonl")}
    rankings = [row for row in rankings if prompt_id(normalize_prompt(row["prompt"])) not in held_out]
    allowed = STRENGTHS[: STRENGTHS.index(min_strength) + 1]
    kept: list[Row] = []
    left_out: list[Row] = []
    for row in [*pairs, *rankings_to_pairs(rankings)]:
        if prompt_id(normalize_prompt(row["prompt"])) in held_out:
            left_out.append({**row, "drop_reason": "held_out_prompt"})
        elif (row.get("strength") or allowed[0]) not in allowed:
            left_out.append({**row, "drop_reason": "weaker_than_min_strength"})
        else:
            kept.append(row)
    if not kept:
        raise DataError(
            f"{annotator.path} holds no preference of strength {min_strength} or clearer on a prompt that is not held "
            "out; label more rows"
        )
    summary = {"num_rankings": len(rankings), "num_preferences": len(kept), "num_left_out": len(left_out)}
    return _write(call, Labels(rankings, kept, left_out, summary), round)


def _named(row: Row) -> Row:
    """Give a person's row the id by which a trace finds it: its own, else that of its prompt."""
    own = row.get("id", row.get("prompt_id"))
    if own is not None or "prompt" not in row:
        return row if own is None else {**row, "prompt_id": str(own)}
    try:
        return {**row, "prompt_id": prompt_id(normalize_prompt(row["prompt"]))}
    except DataError:  # the check of all rows says what is wrong with it
        return row


def _merged(call: StageCall) -> list[Row]:
    """Read the samples of all policies; a sample is named by its prompt, its policy and its index."""
    return [row for path in call.inputs["completions"] for row in read_rows(path / "completions.jsonl")]


def _edits(annotator: VerifierAnnotator, rows: list[Row]) -> dict[str, str]:
    """Write the answer that an annotator would have edited, for prompts without a good sample."""
    if annotator.edit_function is None:
        return {}
    correct = load_function(annotator.edit_function)
    best: dict[str, tuple[float, Any]] = {}
    for row in rows:
        score = row.get("score")
        if score is not None and score >= best.get(row["prompt_id"], (-float("inf"),))[0]:
            best[row["prompt_id"]] = (score, row["prompt"])
    edits = {key: correct(prompt) for key, (score, prompt) in best.items() if score < annotator.edit_below}
    return {key: answer for key, answer in edits.items() if answer is not None}


def _write(call: StageCall, labels: Labels, round: int) -> dict[str, Any]:
    write_jsonl(call.out / "rankings.jsonl", [{**row, "round": round} for row in labels.rankings])
    write_jsonl(call.out / "preferences.jsonl", [{**row, "round": round} for row in labels.preferences])
    write_jsonl(call.out / "dropped.jsonl", labels.dropped)
    if not labels.preferences:
        raise DataError(f"no preference came out of {len(labels.dropped)} rows: {labels.summary}")
    for journal in (SCORES, REPLIES):
        (call.out / journal).unlink(missing_ok=True)
    return labels.summary
