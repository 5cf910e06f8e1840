"""A language model as judge: a folder of weights on this machine, or a model behind a server."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import count
from typing import Any
from urllib.parse import urldefrag

import openai

from posttrain.config import EndpointModel, Execution, LLMJudge
from posttrain.core.errors import DataError
from posttrain.core.model_files import check_model_dir, resolve
from posttrain.engines import open_engine, open_tokenizer, params_of, text_generator
from reward.judges.asking import Generate, Messages
from reward.judges.pairwise import PairwiseJudge, pair_rows

Row = dict[str, Any]

# One verdict should come out the same when it is asked for again.
GREEDY = {"temperature": 0.0, "top_p": 1.0, "top_k": 0}


def compare_by_llm(rows_a: Iterable[Row], rows_b: Iterable[Row], judge: PairwiseJudge) -> list[Row]:
    """Let a judge read every pair in both orders; unreadable replies stay apart from ties.

    Samples of one prompt meet in the order of ``sample_index``; a win rate averages their verdicts.
    """
    pairs, _ = pair_rows(rows_a, rows_b)
    return judge.compare(pairs)


def open_judge(target: str) -> PairwiseJudge:
    """Open the judge ``DIR`` (a Hugging Face folder) or ``http://host/v1`` (a server; ``#MODEL`` names one of several).

    Raises:
        ModelError: the folder cannot be used.
        DataError: the server does not answer, or offers several models and none is named.
    """
    return PairwiseJudge(open_generate(target))


def open_generate(target: str) -> Generate:
    """Open the model of a judge as a function from conversations to replies."""
    is_server = target.startswith(("http://", "https://"))
    endpoint = open_endpoint(target) if is_server else None
    folder = None if is_server else resolve(target)
    if folder is not None:
        check_model_dir(folder)
    tokenizer = open_tokenizer(folder)
    max_tokens = LLMJudge.model_fields["max_completion_tokens"].default
    params = params_of({**GREEDY, "max_completion_tokens": max_tokens}, tokenizer, folder)
    reply = text_generator(open_engine(folder, endpoint, Execution()), tokenizer, params)
    calls = count()

    def generate(conversations: list[Messages]) -> list[str]:
        return [text for text, _ in reply(conversations, next(calls))]

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
