"""Whose fault is it: a prompt's, which is then refused while the rest goes on, or the server's, which ends a sampling?

A prompt is only refused for good once the server was seen to answer another one: a wrong key, a full account or a
server that died in between must not turn prompts into rejects.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from synth.engines.base import EngineError, Request
from synth.engines.faults import Fault

# So many in a row without an answer in between, and the server is asked something simple.
HOPELESS = 8
# An answer that is under way may settle it within this time, in seconds.
PATIENCE_S = 1.0


@dataclass(frozen=True)
class _Held:
    request: Request
    place: int
    fault: Fault
    at: float = field(default_factory=time.monotonic)


class Doubt:
    """Hold samples that cannot be got until it is known whose fault that is.

    Args:
        ask: asks the server something simple, and returns why it does not answer that either.
        refuse: called with a request, the place of the sample and the reason when it is the prompt's fault.
    """

    def __init__(self, ask: Callable[[], Awaitable[Fault | None]], refuse: Callable[[Request, int, str], None]) -> None:
        self.has_answered = False
        self._ask, self._refuse = ask, refuse
        self._held: list[_Held] = []
        self._num_busy = 0
        self._last_good = 0.0
        self._lock = asyncio.Lock()

    def answered(self, started: float) -> None:
        """Note that a request was answered which was sent at this time (of `time.monotonic`)."""
        self.has_answered = True
        self._num_busy = 0
        self._last_good = max(self._last_good, started)
        kept = []
        for held in self._held:
            if held.fault.is_of_prompt or held.at < self._last_good:
                self._refuse(held.request, held.place, held.fault.reason)
            else:
                kept.append(held)
        self._held = kept

    async def hold(self, request: Request, place: int, fault: Fault) -> None:
        """Take a sample that cannot be got.

        Raises:
            EngineError: so many in a row that the server was asked something simple, and did not answer.
        """
        if fault.is_of_prompt and self.has_answered:
            self._refuse(request, place, fault.reason)
            return
        self._held.append(_Held(request, place, fault))
        if len(self._held) >= HOPELESS:
            async with self._lock:
                if len(self._held) >= HOPELESS:
                    await asyncio.sleep(PATIENCE_S)
                if len(self._held) >= HOPELESS:
                    await self._prove(len(self._held), self._held[-1].fault)

    async def wait_out(self, fault: Fault) -> None:
        """Note that a busy server did not take a sample, which is asked for again later.

        Raises:
            EngineError: as `hold` does.
        """
        self._num_busy += 1
        async with self._lock:
            if self._num_busy >= HOPELESS:
                await self._prove(self._num_busy, fault)

    async def settle(self) -> None:
        """Decide about all that is held.

        Raises:
            EngineError: the server does not answer something simple either.
        """
        if self._held:
            await self._prove(len(self._held), self._held[-1].fault)

    async def _prove(self, number: int, fault: Fault) -> None:
        started = time.monotonic()
        simple = await self._ask()
        if simple is None:
            self.answered(started)
            return
        if fault.may_pass:
            what = f"{number} samples in a row could not be got"
        else:
            what = f"none of the {'last' if self.has_answered else 'first'} {number} prompts was answered"
        also = "" if simple.reason == fault.reason else f" (and a simple prompt because {simple.reason})"
        raise EngineError(f"{what}, the last because {fault.reason}{also}{fault.hint}")
