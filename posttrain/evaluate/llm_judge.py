"""A language model as judge: a folder of weights on this machine, or a model behind a server."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag

import openai

from posttrain.config import EndpointModel, Execution, LLMJudge
from posttrain.core.errors import DataError
from posttrain.core.model_files import check_model_dir, resolve
from posttrain.engines import open_engine, open_tokenizer, params_of
from posttrain.evaluate import pairing
from posttrain.evaluate.judge_replies import open_replies
from posttrain.evaluate.pairing import pair_scores
from reward.judges.asking import NUM_RETRIES, Generate, Messages
from reward.judges.pairwise import PairwiseJudge, pair_rows
from reward.judges.rubric import RubricJudge

Row = dict[str, Any]

# One verdict should come out the same when it is asked for again.
GREEDY = {"temperature": 0.0, "top_p": 1.0, "top_k": 0}


def compare_by_llm(rows_a: Iterable[Row], rows_b: Iterable[Row], judge: PairwiseJudge) -> list[Row]:
    """Let a judge read every pair in both orders; unreadable replies stay apart from ties.

    Samples of one prompt meet in the order of ``sample_index``; a win rate averages their verdicts.
    """
    pairs, _ = pair_rows(rows_a, rows_b)
    return judge.compare(pairs)


def compare_by_rubric(rows_a: Iterable[Row], rows_b: Iterable[Row], judge: RubricJudge) -> list[Row]:
    """Let a judge rate every answer alone; the higher rating wins, equal ratings tie, an unreadable one has no say.

    Returns:
        Verdicts as ``pairing.pair_scores`` gives them, with ``ratings_a``, ``ratings_b``, ``replies_a``, ``replies_b``
        by sample, and ``unreadable_ratings``, how many of them could not be read.
    """
    rated_a, rated_b = judge.rate(rows_a), judge.rate(rows_b)
    verdicts = pair_scores(rated_a, rated_b)
    prompts = {prompt_id: sides for prompt_id, *sides in pairing.pair_rows(rated_a, rated_b).prompts}
    for verdict in verdicts:
        for side, samples in zip("ab", prompts[verdict["prompt_id"]], strict=True):
            verdict[f"ratings_{side}"] = [sample["score"] for sample in samples]
            verdict[f"replies_{side}"] = [sample["reply"] for sample in samples]
        verdict["unreadable_ratings"] = (verdict["ratings_a"] + verdict["ratings_b"]).count(None)
    return verdicts


def retries_of(target: str) -> int:
    """Say how often a judge is asked again: a folder's weights decode greedily, and would say the same."""
    return NUM_RETRIES if is_server(target) else 0


def is_server(target: str) -> bool:
    """Tell whether a judge is a server rather than a folder."""
    return target.startswith(("http://", "https://"))


def open_generate(target: str, seed: int = 0, journal: Path | None = None) -> Generate:
    """Open the judge ``DIR`` (a Hugging Face folder) or ``http://host/v1`` (a server; ``#MODEL`` names one of several).

    Returns:
        A function from conversations to replies, as ``open_replies`` gives them.

    Raises:
        ModelError: the folder cannot be used.
        DataError: the server does not answer, or offers several models and none is named.
    """
    endpoint = open_endpoint(target) if is_server(target) else None
    folder = None if endpoint is not None else resolve(target)
    if folder is not None:
        check_model_dir(folder)
    tokenizer = open_tokenizer(folder)
    max_tokens = LLMJudge.model_fields["max_completion_tokens"].default
    params = params_of({**GREEDY, "max_completion_tokens": max_tokens}, tokenizer, folder)
    return open_replies(open_engine(folder, endpoint, Execution()), tokenizer, params, seed, journal=journal)


def deferred(target: str, seed: int = 0, journal: Path | None = None) -> Generate:
    """Open a judge at the first question: a template that cannot be used should show before weights are loaded."""
    opened: list[Generate] = []

    def generate(conversations: list[Messages]) -> list[str]:
        if not opened:
            opened.append(open_generate(target, seed, journal))
        return opened[0](conversations)

    return generate


def open_endpoint(target: str) -> EndpointModel:
    """Describe a server's model; where none is named, the server's only one."""
    url, name = urldefrag(target)
    endpoint = EndpointModel(base_url=url, model=name or "unnamed", revision="unnamed")
    if name:
        return endpoint
    key = os.environ.get(endpoint.api_key_env) or "none"
    try:
        with openai.OpenAI(base_url=url, api_key=key, timeout=30.0, max_retries=1) as client:
            names = [model.id for model in client.models.list()]
    except openai.OpenAIError as error:
        raise DataError(f"judge {url} did not list its models ({error}); name one: llm:{url}#MODEL") from error
    if len(names) != 1:
        raise DataError(f"judge {url} offers {', '.join(names) or 'no model'}; name one: llm:{url}#MODEL")
    return endpoint.model_copy(update={"model": names[0]})
