"""K samples of every prompt, each exactly once, however often the process is killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from os import PathLike
from typing import TYPE_CHECKING

from posttrain.core.errors import DataError
from posttrain.core.journal import JournalWriter
from posttrain.core.tools import plain_tools
from synth.engines.base import (
    REFUSED,
    Engine,
    EngineError,
    ProbeReport,
    Request,
    Sample,
    SamplingParams,
    sample_seed,
)
from synth.engines.fitting import generate_fitting, prompt_limit
from synth.prompt_set import PromptSet
from synth.prompt_sources import Prompts
from synth.sample_index import SampleIndex
from synth.sample_store import Row, SampleStore
from synth.sampling_job import Job, make_job
from synth.sampling_summary import SamplingSummary, summarize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Report = Callable[[int, int], None]
# Draws what is missing, and tells of the check at the engine's start where it knows of one.
Draw = Callable[[SampleIndex], ProbeReport | None]

# Prompts are tokenised and handed to the engine in parts of this many, so that memory stays flat.
PROMPTS_AT_ONCE = 2048
# A person hears of progress at most this often.
REPORT_SECONDS = 0.5


def sample_completions(
    prompts: Prompts,
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase | None,
    num_completions: int,
    params: SamplingParams,
    seed: int,
    out_dir: str | PathLike[str],
    max_prompt_tokens: int | None = None,
    date: str | None = None,
    progress: Report | None = None,
) -> SamplingSummary:
    """Draw `num_completions` samples of every prompt into `out_dir`.

    The same call after a kill goes on where it was, and does nothing once all is there. A sample's seed follows from
    (seed, prompt id, sample index) alone.

    Args:
        prompts: a .jsonl or .parquet file, or rows: `prompt` (messages, or a text), `id` where there is one, and
            columns that travel along. Rows that a `PromptSource` gives are not held in memory.
        tokenizer: of the model; None where a server writes the prompt from messages.
        out_dir: gets completions.jsonl, rejects.jsonl, summary.json and request.json.
        max_prompt_tokens: longer prompts are rejected, as are those that leave no room in the model's context.
        date: what a template that prints today's date shall print.
        progress: called with (samples there or refused, samples wanted) now and then, at the end with all of them.

    Raises:
        DataError: `out_dir` holds the samples of another request, or there is no such file.
        EngineError: the engine failed; what was drawn is kept, and the same call goes on from there.
    """
    job = make_job(prompts, num_completions, params, seed, max_prompt_tokens, date)
    store = SampleStore(out_dir, job.asked(engine.identity))

    def draw(done: SampleIndex) -> ProbeReport | None:
        with store.journal("samples") as journal:
            draw_missing(job, done, engine, tokenizer, journal, progress)
        return engine.probe

    return run_job(job, store, engine.model, draw)


def run_job(job: Job, store: SampleStore, model: str, draw: Draw) -> SamplingSummary:
    """Call `draw` with what is there already, unless all is; then write the finished files."""
    finished = store.summary()
    if finished is None:
        with store.held():
            finished = store.summary()  # another process may have finished while this one waited
            if finished is None:
                return _finish(job, store, model, draw)
    store.drop_journals()
    return SamplingSummary(**finished)


def _finish(job: Job, store: SampleStore, model: str, draw: Draw) -> SamplingSummary:
    started = time.monotonic()
    before = store.index(job.prompts, job.num_completions)
    num_tokens = before.num_tokens
    probe = draw(before)
    del before
    seconds = time.monotonic() - started
    index = store.index(job.prompts, job.num_completions)
    _refuse_gaps(job.prompts, index)
    tally = store.finish(job.prompts, index, model)
    summary = summarize(job, store.asked, tally, index.num_refused, seconds, index.num_tokens - num_tokens, probe)
    store.close(asdict(summary))
    return summary


def _refuse_gaps(prompts: PromptSet, index: SampleIndex) -> None:
    lacking = [place for place in range(len(prompts)) if index.missing(place)]
    if lacking:
        _, first = next(prompts.usable(lambda place: place == lacking[0]))
        raise EngineError(
            f"samples of {len(lacking)} prompts are missing, the first is {first['prompt_id']!r} - after the engine "
            "ended - what was drawn is kept; run the same again"
        )


def draw_missing(
    job: Job,
    done: SampleIndex,
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase | None,
    journal: JournalWriter,
    progress: Report | None,
) -> None:
    """Draw the samples of `job` that are not done yet, each into the journal as soon as it is finished."""
    prompt_limit(job.params, engine.context_tokens)  # before any prompt is read: is there room for one at all?
    count = job.num_samples - done.num_missing
    next_report = 0.0
    todo = job.prompts.usable(job.turns(done.missing))
    while part := list(islice(todo, PROMPTS_AT_ONCE)):
        requests = list(_requests(part, done, job, tokenizer, journal))
        # A sample that can never be drawn counts as done, else the progress would stay below its end.
        count += sum(len(done.missing(place)) for place, _ in part) - sum(len(request.seeds) for request in requests)
        for settled in _settle(engine, requests, job, journal) if requests else ():
            count += settled
            if progress is not None and time.monotonic() >= next_report:
                progress(count, job.num_samples)
                next_report = time.monotonic() + REPORT_SECONDS
    if progress is not None:
        progress(count, job.num_samples)


def _requests(
    part: Sequence[tuple[int, Row]],
    done: SampleIndex,
    job: Job,
    tokenizer: PreTrainedTokenizerBase | None,
    journal: JournalWriter,
) -> Iterator[Request]:
    for place, row in part:
        name, tools = row["prompt_id"], row.get("tools")
        ids: tuple[int, ...] = ()
        if tokenizer is None and plain_tools(tools):
            journal.append([{"prompt_id": name, "reason": "field 'tools': this engine is given messages alone"}])
            continue
        if tokenizer is not None:
            from posttrain.core.chat import encode_prompt  # loads transformers, which a remote engine does without

            try:
                ids = tuple(encode_prompt(tokenizer, row["prompt"], job.date, tools))
            except DataError as error:
                journal.append([{"prompt_id": name, "reason": str(error)}])
                continue
        missing = tuple(done.missing(place))
        seeds = tuple(sample_seed(job.seed, name, index) for index in missing)
        yield Request(name, ids, tuple(row["prompt"]), seeds, missing)


def _settle(engine: Engine, requests: Sequence[Request], job: Job, journal: JournalWriter) -> Iterator[int]:
    """Write samples and refusals into the journal, and yield each time how many samples that settles."""
    refused: set[str] = set()
    for sample in generate_fitting(engine, requests, job.params, job.max_prompt_tokens):
        # At once, each by itself: nothing that an engine has given or refused is asked for again after a kill.
        if sample.key not in refused:
            journal.append([_journal_row(sample)])
        if sample.finish_reason == REFUSED:
            refused.add(sample.key)
        yield 1


def _journal_row(sample: Sample) -> Row:
    if sample.finish_reason == REFUSED:
        return {"prompt_id": sample.key, "reason": sample.text}
    row = {
        "prompt_id": sample.key,
        "sample_index": sample.sample_index,
        "text": sample.text,
        "finish_reason": sample.finish_reason,
        "num_tokens": sample.num_tokens,
        "seed": sample.seed,
    }
    return {**row, "notes": list(sample.notes)} if sample.notes else row
