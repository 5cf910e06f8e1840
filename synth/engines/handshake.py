"""The start-up check of engines that run elsewhere: their log-probs of a fixed text against those of a folder here."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import openai
import torch

from posttrain.core.chat import load_tokenizer
from posttrain.core.model_files import weight_files
from posttrain.core.models import load_causal_lm, load_config
from synth.engines.base import EngineError, ProbeReport
from synth.engines.probe import Probe, rounded_to_bfloat16, take_probe

MEMORY_SHARE = 0.5
"""Weights that take a larger share of the machine's memory are not loaded for a check."""
# What a server answers that has no such address or does not know the parameters.
_NOT_OFFERED = {400, 404, 405, 415, 422, 501}

# Given token ids, return the log-prob of each after those before it, in nats; anything may stand for the first.
Ask = Callable[[list[int]], Sequence[Any]]


class NotOffered(Exception):
    """Say why an engine gives no log-probs of a prompt."""


def local_probe(model_dir: str | os.PathLike[str], dtype: str | None = None) -> Probe | str:
    """Run the fixed text through a folder's weights on the CPU, or say why not.

    Args:
        dtype: None takes the folder's own where that is one of ours, else float32.

    Raises:
        ModelError: the folder holds no language model that can be loaded.
    """
    config = load_config(model_dir)
    if getattr(config, "quantization_config", None) is not None:
        return "the folder's weights are quantised, which a plain forward pass is not"
    size = sum(path.stat().st_size for path in weight_files(model_dir))
    if size > MEMORY_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        return f"the folder's weights ({size / 1e9:.1f} GB) take more than half of this machine's memory"
    stored = str(getattr(config, "dtype", None)).removeprefix("torch.")
    model = load_causal_lm(model_dir, dtype or (stored if stored in ("bfloat16", "float16") else "float32"))
    probe = take_probe(model, load_tokenizer(model_dir))
    # An engine elsewhere may round weights that are stored in float32.
    return rounded_to_bfloat16(probe, model) if model.dtype == torch.float32 else probe


def compare(probe: Probe | str, ask: Ask, engine: str, model_dir: str | os.PathLike[str]) -> ProbeReport:
    """Compare an engine's log-probs with the probe's, where there are both.

    Args:
        engine: names it in messages.

    Raises:
        EngineError: they differ by more than rounding, or are no numbers.
    """
    if isinstance(probe, str):
        return ProbeReport(checked=False, difference=None, reason=probe)
    ids = [*probe.prompt, *probe.completion]
    try:
        logprobs = list(ask(ids))[len(probe.prompt) : len(ids)]
        if len(logprobs) < len(probe.completion) or not all(isinstance(value, int | float) for value in logprobs):
            raise NotOffered(f"{engine} returned log-probs for some of the tokens only")
    except NotOffered as error:
        return ProbeReport(checked=False, difference=None, reason=str(error))
    difference = float((torch.tensor(logprobs) - probe.logprobs_T.float()).abs().mean())
    if not difference <= probe.limit:
        raise EngineError(
            f"log-probs of {engine} differ from those of {model_dir} by {difference:.2g} nats a token on average "
            f"(limit {probe.limit:.2g}, measured from these weights in their own precision and in float32) - probed at "
            "start - its samples would not be this model's: does it hold these weights, and not quantised? If it is "
            "to be so, name no local copy, which leaves the check out"
        )
    return ProbeReport(checked=True, difference=difference, reason=None)


def ask_server(client: openai.OpenAI, model: str, ids: list[int]) -> list[Any]:
    """Ask an OpenAI-compatible server for the log-probs of a prompt, as vLLM and SGLang give them.

    Raises:
        NotOffered: it does not give them.
        EngineError: it cannot be reached, or refuses the key.
    """
    try:
        reply = client.completions.create(model=model, prompt=ids, max_tokens=1, temperature=0.0, echo=True, logprobs=1)
    except openai.APIStatusError as error:
        if error.status_code in _NOT_OFFERED:
            raise NotOffered(
                f"the server answered a completion with echo and logprobs with status {error.status_code}"
            ) from error
        raise EngineError(_unreachable(client, f"status {error.status_code}")) from error
    except (openai.APIConnectionError, openai.APIResponseValidationError, ValueError) as error:
        raise EngineError(_unreachable(client, type(error).__name__)) from error
    choices = getattr(reply, "choices", None) or [None]
    logprobs = getattr(getattr(choices[0], "logprobs", None), "token_logprobs", None)
    if not isinstance(logprobs, list) or len(logprobs) < len(ids):
        raise NotOffered("the server returned no log-probs of the prompt (echo and logprobs)")
    return logprobs


def _unreachable(client: openai.OpenAI, why: str) -> str:
    return (
        f"the log-probs at start could not be got ({why}) - {client.base_url} - see whether the server is up and the "
        "key is right, or name no local copy to leave the check out"
    )


def ask_vllm(vllm: Any, llm: Any, ids: list[int]) -> list[Any]:
    """Ask vLLM's offline engine for the log-probs of a prompt.

    Raises:
        NotOffered: this version gives none.
    """
    params = vllm.SamplingParams(n=1, temperature=0.0, max_tokens=1, prompt_logprobs=1, detokenize=False)
    (output,) = llm.generate([{"prompt_token_ids": ids}], [params], use_tqdm=False)
    if output.prompt_logprobs is None or len(output.prompt_logprobs) != len(ids):
        raise NotOffered("vLLM returned no log-probs of the prompt")
    # The first token follows nothing; each other entry holds the prompt's own token and the likeliest one.
    return [None, *(entry[token].logprob for entry, token in zip(output.prompt_logprobs[1:], ids[1:], strict=True))]
