"""An engine that answers from a Python function: for tests, and for trying a pipeline without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from synth.engines.base import ProbeReport, Request, Sample, SamplingParams

Script = Callable[[Request, int, int], str]

_ECHOED_WORDS = 6


def echo(request: Request, sample_index: int, seed: int) -> str:
    """Answer with a few words of the prompt, which ones and how many by the seed, and a number from it."""
    words = request.messages[-1]["content"].split() or ["…"]
    start, count, number = seed % len(words), 1 + (seed >> 16) % _ECHOED_WORDS, (seed >> 32) % 1000
    return " ".join([*words[start : start + count], str(number)])


class ScriptedEngine:
    """Answer each sample with `function(request, sample_index, seed)` and record the calls.

    A word counts as a token: an answer of more than `max_completion_tokens` words is cut and marked "length".

    Args:
        records: keep `calls` and `params`, which grow with every call.

    Attributes:
        calls: (key, sample index) of every sample that was asked for, in order.
        params: The sampling parameters of each call of `generate`, in order.
    """

    kind = "scripted"
    probe: ProbeReport | None = None

    def __init__(
        self, function: Script, model: str = "scripted", context_tokens: int | None = None, records: bool = True
    ) -> None:
        self.function = function
        self.records = records
        self.model = model
        self.context_tokens = context_tokens
        self.identity = {"kind": self.kind, "model": model}
        self.calls: list[tuple[str, int]] = []
        self.params: list[SamplingParams] = []

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Sample]:
        """Yield the samples in the order of the requests."""
        if self.records:
            self.params.append(params)
        for request in requests:
            for sample_index, seed in zip(request.sample_indices, request.seeds, strict=True):
                if self.records:
                    self.calls.append((request.key, sample_index))
                text = self.function(request, sample_index, seed)
                words = text.split()
                cut = len(words) > params.max_completion_tokens
                if cut:
                    text = " ".join(words[: params.max_completion_tokens])
                yield Sample(
                    key=request.key,
                    sample_index=sample_index,
                    text=text,
                    ids=None,
                    finish_reason="length" if cut else "stop",
                    num_tokens=min(len(words), params.max_completion_tokens),
                    seed=seed,
                )
