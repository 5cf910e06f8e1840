"""Samples from any OpenAI-compatible server: bounded concurrency, bounded tries, every reply checked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit

import openai

from synth.engines.base import (
    ECHO,
    LOW_COUNT,
    REFUSED,
    EngineError,
    ProbeReport,
    Request,
    Sample,
    SamplingParams,
    refused_sample,
)
from synth.engines.chat_api import NEUTRAL, Dialect, dialect_of, request_body
from synth.engines.chat_reply import BadReply, Refused, read_reply
from synth.engines.connection import open_async_client, open_client, read_key
from synth.engines.doubt import Doubt
from synth.engines.faults import TRIES_OF_A_REPLY, Fault, FaultReader

LONGEST_BACKOFF_S = 30.0
MAX_DOUBTFUL_SHARE = 0.5
FEWEST_IN_DOUBT = 256
"""Samples from which on a share says something of a server; fewer are flagged alone."""
# The prompt that a server is asked when it is in doubt whether it answers any.
_SIMPLE = Request("simple", (), ({"role": "user", "content": "Say hello."},), (0,), (0,))


class OpenAIEngine:
    """Ask a server for one sample per request, several requests at a time.

    Network faults, time-outs, 429, 5xx and replies that make no sense are asked again with growing pauses
    (`Retry-After` is kept to), a bounded number of times. What the server will not answer is a refused sample, as soon
    as it is known that the server answers others: a request sent later was answered, or, where there is none, a simple
    one is. Else it is the server's fault, and ends the sampling.

    Args:
        base_url: ends in /v1 as a rule; holds no key.
        model: the name under which the server offers the model.
        api_key_env: the environment variable that holds the key. Servers without keys need none to be set. The key is
            read when a sampling begins and is neither stored nor printed.
        concurrency: requests under way at once.
        timeout_s: longest wait for one reply, in seconds.
        max_retries: further attempts after the first.
        first_backoff_s: pause before the first retry, in seconds; doubles each time.
        dialect: which parameters the server understands; None guesses by the address.
        name: what samples and their folder say about the model; address and model where there is none.
        local_copy: a folder with the model that is served: where the server gives log-probs of a prompt, they are
            compared with the folder's before the first sample.
        max_doubtful_share: largest share of samples that may begin with their prompt, or have more words than the
            server counted tokens; counted from FEWEST_IN_DOUBT samples on. 1 takes all.
    """

    kind = "openai"
    context_tokens: int | None = None

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key_env: str = "OPENAI_API_KEY",
        concurrency: int = 32,
        timeout_s: float = 600.0,
        max_retries: int = 8,
        first_backoff_s: float = 0.5,
        dialect: Dialect | None = None,
        name: str | None = None,
        local_copy: str | os.PathLike[str] | None = None,
        max_doubtful_share: float = MAX_DOUBTFUL_SHARE,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise EngineError(f"base_url is {base_url!r}, expected http://… or https://…")
        if parts.username or parts.password or parts.query:
            raise EngineError("base_url holds a user name, password or query - put the key into the environment")
        self.base_url = base_url
        self.server_model = model
        self.model = name or f"{base_url}:{model}"
        self.identity = {"kind": self.kind, "model": self.model}
        self.api_key_env = api_key_env
        self.concurrency = concurrency
        self.timeout_s = timeout_s
        self.max_retries = max_retries
        self.first_backoff_s = first_backoff_s
        self.dialect = dialect or dialect_of(base_url)
        self.sends_neutral = True
        self.local_copy = local_copy
        self.max_doubtful_share = max_doubtful_share
        self._num_samples = self._num_doubtful = 0
        self.probe: ProbeReport | None = None

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Sample]:
        """Yield samples as their replies arrive, and refused ones as soon as they are known to be.

        Raises:
            EngineError: the key or address is wrong, the server stays out of reach, its log-probs are not those of
                the local copy, it answers nothing, or too many answers are in doubt.
        """
        key = read_key(self.api_key_env)
        if self.probe is None:
            self.probe = self._check(key)
        run = _Run(self, key, requests, params)
        with ThreadPoolExecutor(max_workers=1) as thread:
            end = thread.submit(run.in_thread)
            try:
                while (sample := run.samples.get()) is not None:
                    yield sample
                    self._refuse_doubtful(sample)
            finally:
                run.cancel()
            end.result()

    def _refuse_doubtful(self, sample: Sample) -> None:
        if sample.finish_reason == REFUSED:
            return
        self._num_samples += 1
        self._num_doubtful += not {ECHO, LOW_COUNT}.isdisjoint(sample.notes)
        share = self._num_doubtful / self._num_samples
        if self._num_samples >= FEWEST_IN_DOUBT and share > self.max_doubtful_share:
            raise EngineError(
                f"{self._num_doubtful} of {self._num_samples} answers of {self.base_url} begin with their prompt or "
                f"have more words than the server counted tokens, a share above {self.max_doubtful_share} - what was "
                "drawn is kept - look at some; if they are right, raise max_doubtful_share (--max-doubtful-share) and "
                "run the same again"
            )

    def _check(self, key: str) -> ProbeReport:
        if self.local_copy is None:
            return ProbeReport(checked=False, difference=None, reason="no local copy of the model was named")
        from synth.engines.handshake import ask_server, compare, local_probe  # loads torch

        with open_client(self.base_url, key, self.timeout_s, self.max_retries) as client:
            ask = partial(ask_server, client, self.server_model)
            return compare(local_probe(self.local_copy), ask, self.base_url, self.local_copy)


class _Run:
    """One call of `generate`: the event loop's side of it."""

    def __init__(self, engine: OpenAIEngine, key: str, requests: Sequence[Request], params: SamplingParams) -> None:
        self.samples: queue.Queue[Sample | None] = queue.Queue()
        self._engine = engine
        self._params = params
        self._todo = iter([(request, place) for request in requests for place in range(len(request.seeds))])
        self._again: list[tuple[Request, int]] = []
        self._refused: dict[str, str] = {}
        self._doubt = Doubt(self._ask_something_simple, self._refuse)
        self._faults = FaultReader(engine.base_url, key, engine.api_key_env, engine.timeout_s, engine.dialect)
        self._good: Request | None = None
        self._loop = asyncio.new_event_loop()
        self._key = key
        self._client: openai.AsyncOpenAI
        # Made here, not in the thread, so that there is something to cancel from the first moment on.
        self._main = self._loop.create_task(self._all())

    def in_thread(self) -> None:
        """Run to the end; None in the queue says that no sample follows."""
        try:
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._main)
        finally:
            self._loop.close()
            self.samples.put(None)

    def cancel(self) -> None:
        """Stop what is still under way; harmless at the end."""
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._main.cancel)

    async def _all(self) -> None:
        self._client = open_async_client(self._engine.base_url, self._key, self._engine.timeout_s)
        try:
            async with self._client:
                await self._in_parallel(self._todo, is_last=False)
                # What a busy server did not take has a second turn when the others are done.
                await self._in_parallel(iter(self._again), is_last=True)
                await self._doubt.settle()
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed

    async def _in_parallel(self, todo: Iterator[tuple[Request, int]], is_last: bool) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._engine.concurrency):
                group.create_task(self._worker(todo, is_last))

    async def _worker(self, todo: Iterator[tuple[Request, int]], is_last: bool) -> None:
        for request, place in todo:
            if request.key in self._refused:
                self.samples.put(refused_sample(request, place, self._refused[request.key]))
                continue
            sample, fault = await self._attempts(request, place)
            if sample is not None:
                self.samples.put(sample)
            elif fault is not None and fault.is_busy and not is_last:
                self._again.append((request, place))
                await self._doubt.wait_out(fault)
            elif fault is not None:
                await self._doubt.hold(request, place, fault)

    def _refuse(self, request: Request, place: int, reason: str) -> None:
        self._refused[request.key] = reason
        self.samples.put(refused_sample(request, place, reason))

    async def _attempts(self, request: Request, place: int) -> tuple[Sample | None, Fault | None]:
        """Ask until there is an answer, or a fault that stays."""
        attempt, fault = 0, None
        while attempt < min(self._engine.max_retries + 1, self._tries(fault)):
            if fault is not None:
                await asyncio.sleep(max(fault.wait_s, self._backoff(attempt - 1)))
            has_neutral, started = self._engine.sends_neutral, time.monotonic()
            try:
                async with asyncio.timeout(self._engine.timeout_s):
                    sample = await self._ask(request, place, has_neutral)
            except (openai.OpenAIError, TimeoutError, BadReply, Refused, ValueError) as error:
                fault = self._faults.read(error, self._doubt.has_answered)
                if not fault.may_pass and has_neutral and self._leave_neutral_out(fault):
                    fault = None
                    continue
                if not fault.may_pass:
                    break
            else:
                self._good = request
                self._doubt.answered(started)
                return sample, None
            attempt += 1
        return None, fault

    def _tries(self, fault: Fault | None) -> int:
        """Say how often a request is asked for that ran into this fault."""
        if fault is None or fault.tries is None:
            return self._engine.max_retries + 1
        # A server that answered before may be starting again.
        is_back_soon = fault.is_connection and self._doubt.has_answered
        return self._engine.max_retries + 1 if is_back_soon else fault.tries

    async def _ask(self, request: Request, place: int, has_neutral: bool) -> Sample:
        body = request_body(self._params, request.seeds[place], self._engine.dialect, has_neutral)
        reply = await self._client.chat.completions.with_raw_response.create(
            model=self._engine.server_model, messages=cast(Any, list(request.messages)), extra_body=body
        )
        limit = self._params.max_completion_tokens
        return read_reply(reply.http_response.text, request, place, limit, has_neutral)

    async def _ask_something_simple(self) -> Fault | None:
        """Ask what was answered before, else something simple; return why there is no answer to that either."""
        fault = None
        for attempt in range(min(self._engine.max_retries + 1, TRIES_OF_A_REPLY)):
            if fault is not None:
                await asyncio.sleep(max(fault.wait_s, self._backoff(attempt - 1)))
            try:
                async with asyncio.timeout(self._engine.timeout_s):
                    await self._ask(self._good or _SIMPLE, 0, self._engine.sends_neutral)
            except Refused:
                return None
            except (openai.OpenAIError, TimeoutError, BadReply, ValueError) as error:
                fault = self._faults.read(error, self._doubt.has_answered)
                if not fault.may_pass:
                    return fault
            else:
                return None
        return fault

    def _leave_neutral_out(self, fault: Fault) -> bool:
        """Stop sending values that change nothing where the server refuses their names; return whether it did."""
        names = [name for name in NEUTRAL if name in fault.reason and not (name == "top_k" and self._params.top_k)]
        if self._engine.dialect != "extended" or not names or (self._engine.sends_neutral and self._doubt.has_answered):
            return False
        self._engine.sends_neutral = False
        return True

    def _backoff(self, attempt: int) -> float:
        # The spread keeps requests that failed together from coming back together.
        pause = min(self._engine.first_backoff_s * 2 ** max(attempt, 0), LONGEST_BACKOFF_S)
        return pause * random.uniform(0.5, 1.0)
