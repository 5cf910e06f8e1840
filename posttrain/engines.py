"""Open the engine that samples for a stage: a folder's weights, or an endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from posttrain.config import EndpointModel, Execution
from posttrain.core.chat import encode_prompt, load_tokenizer, stop_ids
from posttrain.core.errors import DataError
from posttrain.core.formats import Message
from synth.engines.base import REFUSED, Engine, Request, SamplingParams, sample_seed
from synth.engines.fitting import generate_fitting
from synth.engines.transformers import TransformersEngine
from synth.prompts.self_instruct import GenerateText

if TYPE_CHECKING:
    from synth.engines.ray import RayEngine


def device_of(execution: Execution) -> str:
    """Return the device to run on: an accelerator where `auto` finds one."""
    if execution.device != "auto":
        return execution.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def use_threads(execution: Execution) -> None:
    """Give torch the threads of the recipe, where it names a number."""
    if execution.threads is not None:
        torch.set_num_threads(execution.threads)


def open_engine(model_dir: Path | None, endpoint: EndpointModel | None, execution: Execution) -> Engine:
    """Return the engine of a model folder, or of an endpoint where there is no folder."""
    if endpoint is not None:
        from synth.engines.openai import OpenAIEngine  # its client takes a second to import

        return OpenAIEngine(
            base_url=endpoint.base_url,
            model=endpoint.model,
            api_key_env=endpoint.api_key_env,
            concurrency=endpoint.concurrency,
            timeout_s=endpoint.timeout_seconds,
            dialect=endpoint.dialect,
            name=f"{endpoint.model}@{endpoint.revision}",  # a run may go on at another address
            local_copy=endpoint.local_copy,
            max_doubtful_share=endpoint.max_doubtful_share,
        )
    assert model_dir is not None
    use_threads(execution)
    return TransformersEngine(model_dir, device=device_of(execution), max_batch_tokens=execution.max_batch_tokens)


def open_ray_engine(model_dir: Path, execution: Execution, dtype: str = "float32") -> RayEngine:
    """Return the engine whose workers run on the Ray cluster of the recipe; to be closed.

    Raises:
        ClusterError: Ray is not installed.
    """
    from synth.engines.ray import ray_engine  # an optional extra

    assert execution.ray_address is not None
    device, budget = execution.device, execution.max_batch_tokens
    return ray_engine(model_dir, dtype, device, budget, execution.workers, execution.ray_address)


def open_tokenizer(model_dir: Path | None) -> Any:
    """Return the tokenizer of a model folder; None for an endpoint, which writes its own template."""
    return None if model_dir is None else load_tokenizer(model_dir)


def params_of(sampling: dict[str, Any], tokenizer: Any, model_dir: Path | None) -> SamplingParams:
    """Return explicit sampling parameters, with the template's stop ids where there is a tokenizer."""
    return SamplingParams(
        temperature=sampling["temperature"],
        top_p=sampling["top_p"],
        top_k=sampling["top_k"],
        max_completion_tokens=sampling["max_completion_tokens"],
        stop_ids=() if tokenizer is None else tuple(stop_ids(tokenizer, model_dir)),
    )


def text_generator(engine: Engine, tokenizer: Any, params: SamplingParams, date: str | None = None) -> GenerateText:
    """Return a function from conversations to replies, for generators that only want text.

    A conversation that cannot be answered (too long for the context, refused by the server) has the reason in place of
    a reply, and "refused" as its finish_reason.
    """

    def generate(conversations: list[list[Message]], seed: int) -> list[tuple[str, str]]:
        replies: dict[str, tuple[str, str]] = {}
        requests = []
        for index, messages in enumerate(conversations):
            key = str(index)
            try:
                ids = prompt_ids_of(tokenizer, messages, date)
            except DataError as error:
                replies[key] = (str(error), REFUSED)
                continue
            requests.append(Request(key, ids, tuple(messages), (sample_seed(seed, key, 0),), (0,)))
        for sample in generate_fitting(engine, requests, params):
            replies[sample.key] = (sample.text, sample.finish_reason)
        return [replies[str(index)] for index in range(len(conversations))]

    return generate


def prompt_ids_of(tokenizer: Any, messages: Sequence[Message], date: str | None) -> tuple[int, ...]:
    """Return a prompt as token ids; none where a server writes the prompt from its messages.

    Raises:
        DataError: the chat template cannot write these messages.
    """
    return () if tokenizer is None else tuple(encode_prompt(tokenizer, list(messages), date))
