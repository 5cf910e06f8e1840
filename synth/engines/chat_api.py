"""What goes to an OpenAI-compatible chat endpoint and what is taken from its reply."""

from __future__ import annotations

import json
from typing import Any, Literal
from urllib.parse import urlsplit

from synth.engines.base import EngineError, Request, Sample, SamplingParams

Dialect = Literal["openai", "extended", "transformers"]

# Some servers hold a seed in 32 bits, signed.
_SEED_MASK = (1 << 31) - 1


class BadReply(Exception):
    """A reply that cannot be a sample; asking again may help."""


class Refused(Exception):
    """The server will never answer this prompt."""


def dialect_of(base_url: str) -> Dialect:
    """Guess what a server understands: OpenAI's own takes no other parameters, vLLM, SGLang and llama.cpp do."""
    return "openai" if (urlsplit(base_url).hostname or "").endswith("openai.com") else "extended"


def request_body(params: SamplingParams, seed: int, dialect: Dialect) -> dict[str, Any]:
    """Write every sampling parameter out, so that none comes from the server's model folder.

    One request asks for one sample: servers differ in what they do with `n`, and a seed belongs to one sample.

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
    neutral = {"min_p": 0.0, "repetition_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}
    # -1 is "all tokens" for vLLM, SGLang and llama.cpp alike; 0 is not for all of them.
    return {**body, **neutral, "top_k": params.top_k or -1, "max_tokens": params.max_completion_tokens}


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


def read_reply(reply: Any, request: Request, place: int) -> Sample:
    """Check a chat completion as the `openai` package returns it and make it a sample.

    Raises:
        BadReply: no or several choices, no finish reason that is known, no count of tokens.
        Refused: the server filtered the answer.
    """
    choices = getattr(reply, "choices", None)
    if not isinstance(choices, list) or len(choices) != 1:
        found = f"{len(choices)} choices" if isinstance(choices, list) else "no choices"
        raise BadReply(f"the reply has {found}, expected 1")
    choice = choices[0]
    reason = getattr(choice, "finish_reason", None)
    if reason == "content_filter":
        raise Refused("the server's content filter cut the answer")
    if reason not in ("stop", "length"):
        raise BadReply(f"the reply's finish_reason is {reason!r}, expected 'stop' or 'length'")
    message = getattr(choice, "message", None)
    text = getattr(message, "content", None)
    if not isinstance(text, str):
        raise BadReply(f"the reply's content is {text!r}, expected a text")
    num_tokens = getattr(getattr(reply, "usage", None), "completion_tokens", None)
    if not isinstance(num_tokens, int):
        raise BadReply(f"the reply's usage.completion_tokens is {num_tokens!r}, expected a number")
    return Sample(
        key=request.key,
        sample_index=request.sample_indices[place],
        text=text,
        ids=None,
        finish_reason=reason,
        num_tokens=num_tokens,
        seed=request.seeds[place],
    )
