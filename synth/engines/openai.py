"""Samples from any OpenAI-compatible server: bounded concurrency, retries, every reply checked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit

import openai

from synth.engines.base import EngineError, ProbeReport, Request, RequestsRefused, Sample, SamplingParams
from synth.engines.chat_api import BadReply, Dialect, Refused, dialect_of, read_reply, request_body

# Statuses that say "not this prompt"; other prompts may well be answered.
_REFUSALS = {400, 413, 422}
# Statuses that may be gone the next time.
_PASSING = {408, 409, 425, 429}
# Nobody waits longer than this for one retry, whatever Retry-After says.
LONGEST_WAIT_S = 600.0
LONGEST_BACKOFF_S = 30.0
# So many samples given up one after the other, or prompts refused before any was answered, mean it is the server.
HOPELESS = 8


class OpenAIEngine:
    """Ask a server for one sample per request, several requests at a time.

    Network faults, time-outs, 429, 5xx and replies that make no sense are asked again with growing pauses
    (`Retry-After` is kept to); what the server refuses for good is reported at the end, after all other samples.

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
        self.local_copy = local_copy
        self.probe: ProbeReport | None = None

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Sample]:
        """Yield samples as their replies arrive.

        Raises:
            RequestsRefused: at the end, the prompts that the server refused.
            EngineError: the key or address is wrong, the server stays out of reach, its log-probs are not those of
                the local copy, or samples were given up.
        """
        if self.probe is None:
            self.probe = self._check()
        run = _Run(self, requests, params)
        with ThreadPoolExecutor(max_workers=1) as thread:
            end = thread.submit(run.in_thread)
            try:
                while (sample := run.samples.get()) is not None:
                    yield sample
            finally:
                run.cancel()
            end.result()
        run.raise_if_incomplete()

    def _check(self) -> ProbeReport:
        if self.local_copy is None:
            return ProbeReport(checked=False, difference=None, reason="no local copy of the model was named")
        from synth.engines.handshake import ask_server, compare, local_probe  # loads torch

        key = os.environ.get(self.api_key_env, "") or "none"
        with openai.OpenAI(
            api_key=key, base_url=self.base_url, timeout=self.timeout_s, max_retries=self.max_retries
        ) as client:
            ask = partial(ask_server, client, self.server_model)
            return compare(local_probe(self.local_copy), ask, self.base_url, self.local_copy)


class _Run:
    """One call of `generate`: the event loop's side of it."""

    def __init__(self, engine: OpenAIEngine, requests: Sequence[Request], params: SamplingParams) -> None:
        self.samples: queue.Queue[Sample | None] = queue.Queue()
        self._engine = engine
        self._params = params
        self._todo = iter([(request, place) for request in requests for place in range(len(request.seeds))])
        self._refused: dict[str, str] = {}
        self._given_up: list[str] = []
        self._answered = 0
        self._failed_in_a_row = 0
        self._loop = asyncio.new_event_loop()
        self._key = os.environ.get(engine.api_key_env, "")
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

    def raise_if_incomplete(self) -> None:
        """Tell of samples that were given up, else of prompts that were refused."""
        if self._given_up:
            raise EngineError(
                f"{len(self._given_up)} samples could not be got in {self._engine.max_retries + 1} attempts each, the "
                f"last because {self._given_up[-1]} - from {self._engine.base_url} - what arrived is kept; "
                "run the same again"
            )
        if self._refused:
            raise RequestsRefused(self._refused)

    async def _all(self) -> None:
        engine = self._engine
        # Servers without keys ignore the header, but the client insists on one.
        client = openai.AsyncOpenAI(
            api_key=self._key or "none", base_url=engine.base_url, timeout=engine.timeout_s, max_retries=0
        )
        try:
            async with client, asyncio.TaskGroup() as group:
                for _ in range(engine.concurrency):
                    group.create_task(self._worker(client))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed

    async def _worker(self, client: openai.AsyncOpenAI) -> None:
        for request, place in self._todo:
            if request.key in self._refused:
                continue
            try:
                sample = await self._attempts(client, request, place)
            except Refused as refusal:
                self._note_refusal(request.key, str(refusal))
                continue
            if sample is not None:
                self._answered += 1
                self.samples.put(sample)

    async def _attempts(self, client: openai.AsyncOpenAI, request: Request, place: int) -> Sample | None:
        """Ask until there is an answer; None when the attempts are used up."""
        reason = ""
        for attempt in range(self._engine.max_retries + 1):
            wait = 0.0
            try:
                async with asyncio.timeout(self._engine.timeout_s):
                    sample = await self._ask(client, request, place)
                self._failed_in_a_row = 0
                return sample
            except openai.APIStatusError as error:
                reason, wait = self._passing_fault(error), _retry_after(error.response.headers)
            except (openai.APIConnectionError, TimeoutError) as error:
                reason = f"the connection failed ({type(error.__cause__ or error).__name__})"
            except (openai.APIResponseValidationError, ValueError) as error:
                reason = f"the reply is not whole ({type(error).__name__})"
            except BadReply as error:
                reason = str(error)
            if attempt < self._engine.max_retries:
                await asyncio.sleep(max(wait, self._backoff(attempt)))
        self._give_up(reason)
        return None

    async def _ask(self, client: openai.AsyncOpenAI, request: Request, place: int) -> Sample:
        reply = await client.chat.completions.create(
            model=self._engine.server_model,
            messages=cast(Any, list(request.messages)),
            extra_body=request_body(self._params, request.seeds[place], self._engine.dialect),
        )
        return read_reply(reply, request, place)

    def _passing_fault(self, error: openai.APIStatusError) -> str:
        """Say what a status means if it may pass; else raise."""
        status = error.status_code
        said = f"status {status}: {self._scrub(error.message)}"
        if status in _PASSING or status >= 500:
            return said
        if status in _REFUSALS:
            raise Refused(f"the server refused the prompt, {said}")
        hint = "check the address and the model's name"
        if status in (401, 403):
            hint = f"check the key in the environment variable {self._engine.api_key_env}"
        raise EngineError(f"the server answered with {said} - {self._engine.base_url} - {hint}")

    def _scrub(self, text: str, limit: int = 300) -> str:
        # Servers like to quote the key they were given.
        return (text.replace(self._key, "***") if self._key else text)[:limit]

    def _note_refusal(self, key: str, reason: str) -> None:
        self._refused[key] = reason
        if not self._answered and len(self._refused) >= HOPELESS:
            raise EngineError(
                f"the first {HOPELESS} prompts were all refused, the last because {reason} - "
                f"{self._engine.base_url} - does the server not know a parameter? dialect is {self._engine.dialect!r}"
            )

    def _give_up(self, reason: str) -> None:
        self._given_up.append(reason)
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= HOPELESS:
            raise EngineError(
                f"{HOPELESS} samples in a row could not be got, the last because {reason} - {self._engine.base_url} - "
                "is the server up? what arrived is kept; run the same again"
            )

    def _backoff(self, attempt: int) -> float:
        # The spread keeps requests that failed together from coming back together.
        pause = min(self._engine.first_backoff_s * 2**attempt, LONGEST_BACKOFF_S)
        return pause * random.uniform(0.5, 1.0)


def _retry_after(headers: Mapping[str, str]) -> float:
    """Read how long the server wants to be left alone, in seconds; 0 where it does not say."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return min(max(seconds, 0.0), LONGEST_WAIT_S)
