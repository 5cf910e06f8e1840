"""What goes to an OpenAI-compatible chat endpoint."""

from __future__ import annotations

import json
from typing import Any, Literal
from urllib.parse import urlsplit

from synth.engines.base import EngineError, SamplingParams

Dialect = Literal["openai", "extended", "transformers"]

# Some servers hold a seed in 32 bits, signed.
_SEED_MASK = (1 << 31) - 1

NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}
"""Values that change nothing. -1 is "all tokens" for vLLM, SGLang and llama.cpp alike; 0 is not for all of them."""


def dialect_of(base_url: str) -> Dialect:
    """Guess what a server understands: OpenAI's own takes no other parameters, vLLM, SGLang and llama.cpp do."""
    return "openai" if (urlsplit(base_url).hostname or "").endswith("openai.com") else "extended"


def request_body(params: SamplingParams, seed: int, dialect: Dialect, neutral: bool = True) -> dict[str, Any]:
    """Write every sampling parameter out, so that none comes from the server's model folder.

    One request asks for one sample: servers differ in what they do with `n`, and a seed belongs to one sample.

    Args:
        neutral: send the values that change nothing too; a server that refuses their names gets them left out.

    Raises:
        EngineError: the dialect has no word for a parameter that is in use.
    """
    body: dict[str, Any] = {"temperature": params.temperature, "top_p": params.top_p, "seed": seed & _SEED_MASK}
    if dialect == "openai":
        if params.top_k:
            raise EngineError(
                f"top_k is {params.top_k}, which OpenAI's own interface does not know - "
                "use top_k 0, or dialect 'extended' for a server that knows it"
            )
        return {**body, "max_completion_tokens": params.max_completion_tokens}
    if dialect == "transformers":
        return {**body, **_transformers_serve(params)}
    body["max_tokens"] = params.max_completion_tokens
    return body | (NEUTRAL if neutral else {}) | ({"top_k": params.top_k} if params.top_k else {})


def _transformers_serve(params: SamplingParams) -> dict[str, Any]:
    """`transformers serve` decodes greedily unless a generation config, as a JSON text, says do_sample."""
    config: dict[str, Any] = {"do_sample": params.temperature > 0, "max_new_tokens": params.max_completion_tokens}
    if params.temperature > 0:
        config |= {"temperature": params.temperature, "top_p": params.top_p, "top_k": params.top_k}
    if params.stop_ids:
        config["eos_token_id"] = list(params.stop_ids)
    return {
        "generation_config": json.dumps({**config, "repetition_penalty": 1.0}),
        "max_tokens": params.max_completion_tokens,
    }
