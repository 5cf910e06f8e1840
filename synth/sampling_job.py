"""What a sampling was asked for: the usable prompts, why the others are not, and all that shapes the samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import Any

from posttrain.core.errors import DataError
from synth.engines.base import SamplingParams
from synth.prompt_set import PromptSet
from synth.prompt_sources import Prompts, source_of


@dataclass(frozen=True)
class Job:
    """Hold what a sampling was asked for.

    Attributes:
        prompts: the usable prompts, and why the others are not.
        share: (number, count) - of the prompts dealt out to `count` workers, those of worker `number`.
    """

    prompts: PromptSet
    num_completions: int
    params: SamplingParams
    seed: int
    max_prompt_tokens: int | None
    date: str | None
    share: tuple[int, int] = (0, 1)

    @property
    def num_samples(self) -> int:
        """Count the samples that are wanted, of all workers together."""
        return len(self.prompts) * self.num_completions

    def turns(self, missing: Callable[[int], Sequence[int]]) -> Callable[[int], bool]:
        """Make a test for the prompts that this job is to draw: of those that lack samples, dealt in turn, its share.

        Args:
            missing: the sample indices that a prompt lacks, the same for all workers.

        Returns:
            A test to be asked once for each place, in order.
        """
        number, count = self.share
        turn = cycle(range(count))
        return lambda place: bool(missing(place)) and next(turn) == number

    def asked(self, identity: Mapping[str, str]) -> dict[str, Any]:
        """Write down all that shapes the samples."""
        return {
            **{f"engine_{key}" if key == "kind" else key: value for key, value in identity.items()},
            "num_completions": self.num_completions,
            **{key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self.params).items()},
            "seed": self.seed,
            "max_prompt_tokens": self.max_prompt_tokens,
            "date": self.date,
            "prompts": self.prompts.digest,
        }


def make_job(
    prompts: Prompts,
    num_completions: int,
    params: SamplingParams,
    seed: int,
    max_prompt_tokens: int | None,
    date: str | None,
) -> Job:
    """Read the prompts once, to sort out those that cannot be used and to name what was asked."""
    if num_completions < 1:
        raise DataError(f"num_completions is {num_completions}, expected at least 1")
    return Job(PromptSet(source_of(prompts)), num_completions, params, seed, max_prompt_tokens, date)
