"""A language model as judge: a folder of weights on this machine, or a model behind a server."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
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
from synth.engines.chat_api import Dialect
from synth.engines.connection import cause_of, open_client, proxy_of, read_key

Row = dict[str, Any]

# One verdict should come out the same when it is asked for again.
GREEDY = {"temperature": 0.0, "top_p": 1.0, "top_k": 0}


def compare_by_llm(rows_a: Iterable[Row], rows_b: Iterable[Row], judge: PairwiseJudge) -> list[Row]:
    """Let a judge read every pair in both orders; unreadable replies stay apart from ties.

    Samples of one prompt meet in the order of ``sample_index``; a win rate averages their verdicts. What one side has
    more of is counted on the prompt's first verdict (``left_out_a``, ``left_out_b``).
    """
    rows_a, rows_b = list(rows_a), list(rows_b)
    pairs, _ = pair_rows(rows_a, rows_b)
    met = Counter(pair["prompt_id"] for pair in pairs)
    surplus = [Counter(str(row.get("prompt_id")) for row in rows) - met for rows in (rows_a, rows_b)]
    for pair in pairs:
        for side, counts in zip("ab", surplus, strict=True):
            pair[f"left_out_{side}"] = counts.pop(pair["prompt_id"], 0)
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


@dataclass(frozen=True)
class Reader:
    """How a judge that reads is opened, besides its target.

    Attributes:
        seed: of its calls.
        max_completion_tokens: longest reply.
        journal: file that keeps its replies, as ``open_replies`` takes it.
        who: what tells it from other judges.
        progress: called with (replies there, replies wanted).
        dialect: parameters that its server understands; guessed when None.
    """

    seed: int = 0
    max_completion_tokens: int = LLMJudge.model_fields["max_completion_tokens"].default
    journal: Path | None = None
    who: Mapping[str, Any] = field(default_factory=dict)
    progress: Callable[[int, int], None] | None = None
    dialect: Dialect | None = None


def open_generate(target: str, reader: Reader = Reader()) -> Generate:
    """Open the judge ``DIR`` (a Hugging Face folder) or ``http://host/v1`` (a server; ``#MODEL`` names one of several).

    Returns:
        A function from conversations to replies, as ``open_replies`` gives them.

    Raises:
        ModelError: the folder cannot be used.
        DataError: the server does not answer, or offers several models and none is named.
    """
    endpoint = open_endpoint(target, reader.dialect) if is_server(target) else None
    folder = None if endpoint is not None else resolve(target)
    if folder is not None:
        check_model_dir(folder)
    tokenizer = open_tokenizer(folder)
    params = params_of({**GREEDY, "max_completion_tokens": reader.max_completion_tokens}, tokenizer, folder)
    engine = open_engine(folder, endpoint, Execution())
    return open_replies(
        engine, tokenizer, params, reader.seed, journal=reader.journal, who=reader.who, progress=reader.progress
    )


def deferred(target: str, reader: Reader) -> Generate:
    """Open a judge at the first question: a template that cannot be used should show before weights are loaded."""
    opened: list[Generate] = []

    def generate(conversations: list[Messages]) -> list[str]:
        if not opened:
            opened.append(open_generate(target, reader))
        return opened[0](conversations)

    return generate


def open_endpoint(target: str, dialect: Dialect | None = None) -> EndpointModel:
    """Describe a server's model; where none is named, the server's only one."""
    url, name = urldefrag(target)
    endpoint = EndpointModel(base_url=url, model=name or "unnamed", revision="unnamed", dialect=dialect)
    if name:
        return endpoint
    try:
        names = [model.id for model in _listed(endpoint)]
    except openai.OpenAIError as error:
        why = f"{cause_of(error)}{proxy_of(url)}"
        raise DataError(f"judge {url} did not list its models ({why}); name one: llm:{url}#MODEL") from error
    if len(names) != 1:
        raise DataError(f"judge {url} offers {', '.join(names) or 'no model'}; name one: llm:{url}#MODEL")
    return endpoint.model_copy(update={"model": names[0]})


# Fields of a server's card that say nothing of the model: its name, which is known, and what is the same for all.
_NOT_OF_THE_MODEL = ("id", "object", "permission")
FRESH_SECONDS = 60.0
"""A card that was "created" less than this ago was made for the answer (vLLM and llama.cpp stamp it so)."""


def server_card(endpoint: EndpointModel) -> Row:
    """Give what a server says of its model (owner, root, date, …): another model behind the same name shows there.

    Empty where the server lists no models, or not this one.
    """
    try:
        found = next((model for model in _listed(endpoint) if model.id == endpoint.model), None)
    except openai.OpenAIError:  # a server may lack the page, or answer it with anything
        return {}
    card = {} if found is None else found.model_dump(mode="json")
    created = card.get("created")
    if not isinstance(created, int | float) or created <= 0 or abs(time.time() - created) < FRESH_SECONDS:
        card.pop("created", None)
    return {key: value for key, value in card.items() if key not in _NOT_OF_THE_MODEL and value is not None}


def _listed(endpoint: EndpointModel) -> list[Any]:
    """List a server's models that have a name; whatever else the page holds is an error of the client's kind."""
    try:
        return [model for model in _models(endpoint) if isinstance(model.id, str)]
    except (ValueError, AttributeError, TypeError) as error:
        raise openai.OpenAIError(f"its list is not whole: {type(error).__name__}") from error


def _models(endpoint: EndpointModel) -> list[Any]:
    with open_client(endpoint.base_url, read_key(endpoint.api_key_env), timeout_s=30.0, max_retries=1) as client:
        return list(client.models.list())
