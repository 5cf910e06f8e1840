"""What a sampling was asked for: the usable prompts, why the others are not, and all that shapes the samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

from posttrain.core.errors import DataError
from posttrain.core.files import content_hash
from posttrain.core.formats import read_numbered, sort_prompts
from synth.engines.base import SamplingParams

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """Hold what a sampling was asked for, checked: usable prompts in order, and why the others are not."""

    rows: list[Row]
    lines: list[int]
    rejects: list[Row]
    num_completions: int
    params: SamplingParams
    seed: int
    max_prompt_tokens: int | None
    date: str | None

    @property
    def num_samples(self) -> int:
        """Count the samples that are wanted."""
        return len(self.rows) * self.num_completions

    def asked(self, identity: Mapping[str, str]) -> dict[str, Any]:
        """Write down all that shapes the samples."""
        digest = content_hash([[row["prompt_id"], content_hash(row)] for row in self.rows])
        return {
            **{f"engine_{key}" if key == "kind" else key: value for key, value in identity.items()},
            "num_completions": self.num_completions,
            **{key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self.params).items()},
            "seed": self.seed,
            "max_prompt_tokens": self.max_prompt_tokens,
            "date": self.date,
            "prompts": digest,
        }


def make_job(
    prompts: str | PathLike[str] | Iterable[Mapping[str, Any]],
    num_completions: int,
    params: SamplingParams,
    seed: int,
    max_prompt_tokens: int | None,
    date: str | None,
) -> Job:
    """Read the prompts and sort out those that cannot be used."""
    if num_completions < 1:
        raise DataError(f"num_completions is {num_completions}, expected at least 1")
    if isinstance(prompts, str | PathLike):
        numbered = list(read_numbered(prompts))
    else:
        numbered = [(number, dict(row)) for number, row in enumerate(prompts, start=1)]
    rows, rejects = sort_prompts(numbered)
    rejected = {reject["line"] for reject in rejects}
    lines = [number for number, _ in numbered if number not in rejected]
    return Job(rows, lines, rejects, num_completions, params, seed, max_prompt_tokens, date)


def prompt_limit(job: Job, context_tokens: int | None) -> int | None:
    """Give the longest prompt in tokens that may be sampled from, None for no limit.

    Raises:
        DataError: the completion alone fills the model's context.
    """
    room = None if context_tokens is None else context_tokens - job.params.max_completion_tokens
    if room is not None and room < 1:
        raise DataError(
            f"max_completion_tokens is {job.params.max_completion_tokens}, but the model's context is "
            f"{context_tokens} tokens, prompt included - ask for shorter completions"
        )
    return min((limit for limit in (job.max_prompt_tokens, room) if limit is not None), default=None)
