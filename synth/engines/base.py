"""What every sampling engine takes and gives: a request with its seeds in, finished samples out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from posttrain.core.errors import PosttrainError
from posttrain.core.formats import Message

REFUSED = "refused"
"""The finish_reason of a sample that can never be drawn; its text is the reason."""

# What a sample's reply gives cause to say in the summary.
STOP_AT_LIMIT = "stop_at_limit"
LOW_COUNT = "low_prompt_count"
LEFT_OUT = "neutral_left_out"
ECHO = "prompt_in_answer"


class EngineError(PosttrainError, RuntimeError):
    """An engine gave no usable answer; samples that were already yielded stay valid."""


@dataclass(frozen=True)
class SamplingParams:
    """Name every number that shapes a sample, so that none is filled in from a model's generation_config.json.

    Attributes:
        temperature: 0 is greedy decoding, 1 the model's own distribution.
        top_p: Smallest set of tokens whose probability reaches this is kept, in (0, 1]; 1 keeps all.
        top_k: Number of most likely tokens kept; 0 keeps all.
        max_completion_tokens: Longest completion in tokens, its end-of-turn token included.
        stop_ids: Token ids that end a completion. Engines that see only text stop by the server's own template.
    """

    temperature: float
    top_p: float
    top_k: int
    max_completion_tokens: int
    stop_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        faults = []
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            faults.append(f"temperature is {self.temperature}, expected a number >= 0")
        if not 0 < self.top_p <= 1:
            faults.append(f"top_p is {self.top_p}, expected a number in (0, 1]")
        if self.top_k < 0:
            faults.append(f"top_k is {self.top_k}, expected 0 (all tokens) or a positive count")
        if self.max_completion_tokens < 1:
            faults.append(f"max_completion_tokens is {self.max_completion_tokens}, expected at least 1")
        if faults:
            raise EngineError("sampling parameters: " + "; ".join(faults))


@dataclass(frozen=True)
class Request:
    """Ask for samples of one prompt, one for each seed.

    Attributes:
        key: The prompt's id; comes back with each sample.
        prompt_ids: The prompt as token ids, written by `posttrain.core.chat.encode_prompt`; empty when no
            tokenizer is at hand (a remote engine then uses `messages`).
        messages: The prompt as messages.
        seeds: One seed per sample.
        sample_indices: The index of each sample among its prompt's completions, aligned with `seeds`.
    """

    key: str
    prompt_ids: tuple[int, ...]
    messages: tuple[Message, ...]
    seeds: tuple[int, ...]
    sample_indices: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.seeds) != len(self.sample_indices):
            raise EngineError(
                f"request {self.key!r} has {len(self.seeds)} seeds for {len(self.sample_indices)} sample indices"
            )


@dataclass(frozen=True)
class Sample:
    """Hold one finished completion.

    Attributes:
        key: The request's key.
        sample_index: Which of the prompt's completions this is.
        text: The completion without its end-of-turn token.
        ids: Its token ids, the stop id included where there is one; None when the engine sees only text.
        finish_reason: "stop" when the model ended its turn, "length" when it was cut, REFUSED where the request can
            never be answered (too long, filtered): the text is then the reason.
        num_tokens: Tokens drawn, the stop token included.
        seed: The seed it was drawn with.
        notes: What was odd about a server's reply: STOP_AT_LIMIT (it said "stop" with as many tokens as were allowed,
            and is taken as cut), LOW_COUNT (it counts fewer tokens of prompt or answer than there are), LEFT_OUT (the
            server's own defaults hold for parameters that it refuses), ECHO (the answer begins with the prompt).
    """

    key: str
    sample_index: int
    text: str
    ids: tuple[int, ...] | None
    finish_reason: str
    num_tokens: int
    seed: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProbeReport:
    """Tell whether an engine's log-probs of a fixed text were compared with a plain forward pass when it started.

    Attributes:
        checked: whether they were; an engine whose log-probs differ stops.
        difference: mean difference in nats a token, None where it was not checked.
        reason: why it was not checked.
    """

    checked: bool
    difference: float | None
    reason: str | None


class Engine(Protocol):
    """Draw samples; the order in which they are yielded is free, the content depends on the seeds alone.

    `kind` names the engine; `model` is the content hash of the weights, or "url:model" of a server;
    `context_tokens` is the longest prompt and completion together, None where the engine cannot tell;
    `identity` names all that can change a sample beside prompt, parameters and seed: kind, model, dtype, …;
    `probe` tells of the check at its start, None before the first request and for engines without one.
    """

    @property
    def kind(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def context_tokens(self) -> int | None: ...

    @property
    def identity(self) -> dict[str, str]: ...

    @property
    def probe(self) -> ProbeReport | None: ...

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Sample]:
        """Yield every sample of every request once, as it is finished or refused for good."""
        ...


def refused_sample(request: Request, place: int, reason: str) -> Sample:
    """Make what stands for a sample that can never be drawn."""
    return Sample(request.key, request.sample_indices[place], reason, None, REFUSED, 0, request.seeds[place])


def part_of(request: Request, places: Sequence[int]) -> Request:
    """Ask for some of a request's samples only."""
    return replace(
        request,
        seeds=tuple(request.seeds[place] for place in places),
        sample_indices=tuple(request.sample_indices[place] for place in places),
    )


def sample_seed(run_seed: int, prompt_id: str, sample_index: int) -> int:
    """Derive the seed of one sample from what it is, never from when or where it is drawn.

    Returns:
        63 bits, so that it fits a signed 64-bit integer everywhere.
    """
    name = f"{run_seed}\x1f{prompt_id}\x1f{sample_index}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1
