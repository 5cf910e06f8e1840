"""What a model's context cannot hold is refused before an engine sees it, so that no prompt is ever cut.

Everything that asks an engine (samples, judges, generators of prompts, a chat) asks through `generate_fitting`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from posttrain.core.errors import DataError
from synth.engines.base import Engine, Request, Sample, SamplingParams, refused_sample


def generate_fitting(
    engine: Engine, requests: Sequence[Request], params: SamplingParams, max_prompt_tokens: int | None = None
) -> Iterator[Sample]:
    """Yield the samples of every request; refused ones for each that does not fit into the engine's context.

    A request without token ids goes to a server, which writes the prompt and refuses for itself what it cannot hold.

    Args:
        max_prompt_tokens: longer prompts are refused too.

    Raises:
        DataError: the completion alone fills the context.
    """
    limit = prompt_limit(params, engine.context_tokens, max_prompt_tokens)
    fitting = []
    for request in requests:
        if limit is None or len(request.prompt_ids) <= limit:
            fitting.append(request)
            continue
        reason = f"too long: {len(request.prompt_ids)} tokens, the limit is {limit}"
        yield from (refused_sample(request, place, reason) for place in range(len(request.seeds)))
    if fitting:
        yield from engine.generate(fitting, params)


def prompt_limit(
    params: SamplingParams, context_tokens: int | None, max_prompt_tokens: int | None = None
) -> int | None:
    """Give the longest prompt in tokens that may be sampled from, None for no limit.

    Raises:
        DataError: the completion alone fills the model's context.
    """
    room = None if context_tokens is None else context_tokens - params.max_completion_tokens
    if room is not None and room < 1:
        raise DataError(
            f"max_completion_tokens is {params.max_completion_tokens}, but the model's context is "
            f"{context_tokens} tokens, prompt included - lower max_completion_tokens (--max-completion-tokens)"
        )
    return min((limit for limit in (max_prompt_tokens, room) if limit is not None), default=None)
