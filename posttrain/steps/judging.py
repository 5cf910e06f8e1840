"""Language models as judges: of samples in a round's annotation, and of two models on held-out prompts.

Replies are kept as they come: a stage that is stopped goes on, and asks no question that was answered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.config import EndpointModel, JudgeAnnotator, LLMJudge, RubricJudge
from posttrain.core.files import read_rows, write_jsonl
from posttrain.engines import open_engine, open_tokenizer, params_of
from posttrain.evaluate.judge_replies import open_replies
from posttrain.evaluate.llm_judge import GREEDY, compare_by_llm, server_card
from posttrain.evaluate.pairing import pair_rows
from posttrain.stages import StageCall
from posttrain.steps.evaluation import finish_win_rate
from reward.judges.asking import JOURNAL, Generate
from reward.judges.pairwise import TEMPLATE, PairwiseJudge
from reward.judges.rubric import TEMPLATE as RUBRIC_TEMPLATE
from reward.judges.rubric import RubricJudge as AnswerJudge
from reward.judges.tournament import round_robin_scores

Row = dict[str, Any]


def judge_rows(call: StageCall, annotator: JudgeAnnotator, rows: list[Row], seed: int) -> list[Row]:
    """Score each sample by the share of its prompt's other samples that the judge puts it above, in both orders."""
    judge = open_pairwise(call, call.inputs.get("model"), annotator, annotator.template, seed)
    scored, verdicts = round_robin_scores(rows, judge)
    write_jsonl(call.out / "verdicts.jsonl", verdicts)
    return scored  # the caller removes the journal once these are written


def win_rate_of_judge(
    call: StageCall, judge: LLMJudge, content: str | None, names: list[str], seed: int
) -> dict[str, Any]:
    """Compare two models by a language model that reads both answers, in both orders."""
    a, b = (read_rows(call.inputs[side] / "completions.jsonl") for side in ("a", "b"))
    opened = open_pairwise(call, call.inputs.get("judge"), judge, judge.template, seed)
    result = finish_win_rate(call, compare_by_llm(a, b, opened), names, pair_rows(a, b).alone)
    (call.out / JOURNAL).unlink(missing_ok=True)
    return result


def open_pairwise(
    call: StageCall, model_dir: Path | None, judge: JudgeAnnotator | LLMJudge, template: str | None, seed: int
) -> PairwiseJudge:
    """Open a judge that compares two answers."""
    return PairwiseJudge(_generate(call, model_dir, judge, seed), template or TEMPLATE, _retries(judge))


def open_rubric(call: StageCall, model_dir: Path | None, judge: RubricJudge, seed: int) -> AnswerJudge:
    """Open a judge that rates one answer at a time."""
    generate = _generate(call, model_dir, judge, seed)
    return AnswerJudge(generate, judge.template or RUBRIC_TEMPLATE, judge.lowest, judge.highest, _retries(judge))


def _retries(judge: JudgeAnnotator | LLMJudge | RubricJudge) -> int:
    """Return how often a judge is asked again; weights on this machine decode greedily, and would say the same."""
    return judge.num_retries if isinstance(judge.model, EndpointModel) else 0


def _generate(
    call: StageCall, model_dir: Path | None, judge: JudgeAnnotator | LLMJudge | RubricJudge, seed: int
) -> Generate:
    endpoint = judge.model if isinstance(judge.model, EndpointModel) else None
    tokenizer = open_tokenizer(model_dir)
    params = params_of({**GREEDY, "max_completion_tokens": judge.max_completion_tokens}, tokenizer, model_dir)
    engine = open_engine(model_dir, endpoint, call.execution)
    who = {} if endpoint is None else {"server": server_card(endpoint)}  # its address may change, its model may not
    return open_replies(engine, tokenizer, params, seed, call.template_date, call.out / JOURNAL, who)
