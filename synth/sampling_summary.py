"""What a finished sampling reports: counts, how many samples are cut or the same, and all that shaped them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from posttrain.core.versions import version_of
from synth.engines.base import ECHO, LEFT_OUT, LOW_COUNT, STOP_AT_LIMIT, ProbeReport
from synth.engines.chat_api import NEUTRAL
from synth.sampling_job import Job

Row = dict[str, Any]

# From this temperature on, a prompt whose samples are all the same is worth a look.
IDENTICAL_TEMPERATURE = 0.7
# What draws, by kind of engine; of a server the client alone is known.
_LIBRARIES = {"transformers": ("torch", "transformers"), "vllm": ("torch", "vllm"), "openai": ("openai",)}

# What the notes of samples mean.
_NOTES = {
    STOP_AT_LIMIT: "completions ended with 'stop' and as many tokens as max_completion_tokens or more, by the server's "
    "own count; they are taken as cut",
    LOW_COUNT: "completions have more words, or their prompts do, than the tokens that the server counted (usage): its "
    "counts, or what it read, are in doubt",
    ECHO: "completions begin with their prompt: the server may put it in front of its answers",
    LEFT_OUT: f"completions were drawn by the server's own {', '.join(NEUTRAL)}: it refuses to be given them",
}


@dataclass(frozen=True)
class SamplingSummary:
    """Report a finished sampling; the content of `summary.json`.

    Attributes:
        num_prompts: prompts of the input, rejected ones included.
        num_rejects: prompts that could not be used.
        num_completions: rows of completions.jsonl.
        num_tokens: tokens of all completions, end-of-turn tokens included.
        truncated_share: share of completions cut at max_completion_tokens.
        distinct_share: distinct texts over completions, per prompt: the mean and the least.
        identical_prompts: prompts whose completions are all the same text.
        flags: sentences for a person to read.
        seconds: of the last session, which drew `session_tokens` tokens; `tokens_per_second` is their ratio.
        sampling: all that shaped the samples, as it was in force.
        versions: of posttrain and the engine's libraries in the last session, None where one is not installed; empty
            in folders that are older than this field. No part of `sampling`: a folder may be gone on with after an
            update.
        probe: of the last session, whether the engine's log-probs of a fixed text were compared with those of a plain
            forward pass: `checked`, `difference` (mean, in nats a token) and the `reason` why not. None where nothing
            was drawn, or by workers, who check for themselves; an engine whose log-probs differ draws nothing.
    """

    num_prompts: int
    num_rejects: int
    num_completions: int
    num_tokens: int
    truncated_share: float
    distinct_share: dict[str, float]
    identical_prompts: int
    flags: list[str]
    seconds: float
    session_tokens: int
    tokens_per_second: float
    sampling: dict[str, Any]
    versions: dict[str, str | None] = field(default_factory=dict)
    probe: dict[str, Any] | None = None


class Tally:
    """Count over the finished rows what a summary reports."""

    def __init__(self) -> None:
        self.num_samples = 0
        self.num_tokens = 0
        self.num_truncated = 0
        self.num_identical = 0
        self.distinct_shares = 0.0
        self.least_distinct = 1.0
        self.num_prompts = 0
        self.notes: Counter[str] = Counter()

    def add_prompt(self, samples: Sequence[Row]) -> None:
        """Count the samples of one prompt."""
        distinct = len({sample["text"] for sample in samples})
        self.num_prompts += 1
        self.num_samples += len(samples)
        self.num_tokens += sum(sample["num_tokens"] for sample in samples)
        self.num_truncated += sum(sample["finish_reason"] == "length" for sample in samples)
        self.notes.update(note for sample in samples for note in sample.get("notes", ()))
        self.num_identical += distinct == 1 and len(samples) > 1
        self.distinct_shares += distinct / len(samples)
        self.least_distinct = min(self.least_distinct, distinct / len(samples))


def summarize(
    job: Job,
    asked: Mapping[str, Any],
    tally: Tally,
    num_refused: int,
    seconds: float,
    session_tokens: int,
    probe: ProbeReport | None = None,
) -> SamplingSummary:
    """Make the summary; `num_refused` counts the prompts that an engine or a limit refused."""
    temperature = job.params.temperature
    flags = []
    if tally.num_identical and temperature >= IDENTICAL_TEMPERATURE:
        flags.append(
            f"{tally.num_identical} of {tally.num_prompts} prompts have {job.num_completions} identical samples "
            f"at temperature {temperature}"
        )
    if tally.num_truncated:
        flags.append(f"{tally.num_truncated} of {tally.num_samples} completions were cut at max_completion_tokens")
    counts = [(tally.notes[note], said) for note, said in _NOTES.items()]
    flags += [f"{count} of {tally.num_samples} {said}" for count, said in counts if count]
    if num_refused:
        flags.append(f"{num_refused} of {len(job.prompts)} prompts were refused; rejects.jsonl says why")
    return SamplingSummary(
        num_prompts=len(job.prompts) + job.prompts.num_rejects,
        num_rejects=job.prompts.num_rejects + num_refused,
        num_completions=tally.num_samples,
        num_tokens=tally.num_tokens,
        truncated_share=tally.num_truncated / max(tally.num_samples, 1),
        distinct_share={"mean": tally.distinct_shares / max(tally.num_prompts, 1), "least": tally.least_distinct},
        identical_prompts=tally.num_identical,
        flags=flags,
        seconds=round(seconds, 3),
        session_tokens=session_tokens,
        tokens_per_second=round(session_tokens / max(seconds, 1e-9), 1),
        sampling=dict(asked),
        # What the engine itself says comes first: vLLM may be importable without being an installed package.
        versions={
            name: version_of(name) or asked.get(name)
            for name in ("posttrain", *_LIBRARIES.get(asked["engine_kind"], ()))
        },
        probe=None if probe is None else asdict(probe),
    )
