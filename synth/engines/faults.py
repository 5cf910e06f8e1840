"""What keeps a request from being answered: what it means, whether it may pass, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import openai

from synth.engines.base import EngineError
from synth.engines.chat_reply import BadReply, Refused
from synth.engines.connection import cause_of, proxy_of, words_of

# Statuses that say "not this prompt"; other prompts may well be answered.
_REFUSALS = {400, 413, 422, 451}
# Statuses of a server that has too much to do: they may be gone the next time, and are no prompt's fault.
_BUSY = {408, 409, 425, 429, 503, 529}
# Nobody waits longer than this for one retry, whatever Retry-After says.
LONGEST_WAIT_S = 600.0
# Fewer tries where more would hardly help, each of them with its pause before it.
TRIES_OF_A_REPLY = 4
TRIES_OF_A_TIMEOUT = 3
TRIES_OF_A_DEAD_PORT = 4

_UP = "is the server up? what arrived is kept; run the same again"


@dataclass(frozen=True)
class Fault:
    """Say why there is no answer.

    Attributes:
        reason: the server's words, or what happened.
        hint: the address and what to do, should the server answer nothing at all.
        may_pass: whether asking again may help.
        tries: how often at most, where fewer than usual are enough.
        is_of_prompt: the server says that it is the prompt; elsewhere that has to show.
        is_busy: the server has too much to do.
        is_connection: there was no reply at all.
        wait_s: pause that the server asks for, in seconds.
    """

    reason: str
    hint: str
    may_pass: bool = True
    tries: int | None = None
    is_of_prompt: bool = False
    is_busy: bool = False
    is_connection: bool = False
    wait_s: float = 0.0


class FaultReader:
    """Tell what an error of a request means.

    Args:
        base_url, key, api_key_env, timeout_s, dialect: as the engine has them, for messages; the key is kept out.
    """

    def __init__(self, base_url: str, key: str, api_key_env: str, timeout_s: float, dialect: str) -> None:
        self._base_url, self._key, self._api_key_env = base_url, key, api_key_env
        self._timeout_s, self._dialect = timeout_s, dialect

    def read(self, error: Exception, has_answered: bool) -> Fault:
        """Say what an error means: whether it may pass, how often to try, and what to do where nothing is answered.

        Args:
            has_answered: whether the server answered anything yet.

        Raises:
            EngineError: nothing was answered yet, and nothing will be: a wrong key, address or name.
        """
        at = f" - {self._base_url} - "
        if isinstance(error, openai.APIStatusError):
            return self._read_status(error, has_answered)
        if isinstance(error, Refused):
            return Fault(self._scrub(str(error)), f"{at}what arrived is kept", may_pass=False, is_of_prompt=True)
        if isinstance(error, BadReply):
            return Fault(self._scrub(str(error)), f"{at}what arrived is kept", error.may_pass, TRIES_OF_A_REPLY)
        if isinstance(error, openai.APITimeoutError | TimeoutError):
            return Fault(f"no reply came within {self._timeout_s:g} s", at + _UP, tries=TRIES_OF_A_TIMEOUT)
        if isinstance(error, openai.APIConnectionError):
            reason = f"the connection{proxy_of(self._base_url)} failed ({cause_of(error)})"
            return Fault(reason, at + _UP, tries=TRIES_OF_A_DEAD_PORT, is_connection=True)
        return Fault(f"the reply is not whole ({cause_of(error)})", at + _UP, tries=TRIES_OF_A_REPLY)

    def _read_status(self, error: openai.APIStatusError, has_answered: bool) -> Fault:
        status, at = error.status_code, f" - {self._base_url} - "
        said = f"status {status}: {self._scrub(words_of(error.body))}"
        if error.response.history:
            said = f"status {status} behind a redirect to {error.response.url}: {self._scrub(words_of(error.body))}"
        if status in _BUSY or status >= 500:
            if "insufficient_quota" in said or getattr(error, "code", None) == "insufficient_quota":
                raise EngineError(f"the server answered with {said}{at}the account has no credit left; run again later")
            wait = _retry_after(error.response.headers)
            return Fault(said, at + _UP, is_busy=status in _BUSY, wait_s=wait)
        if status in _REFUSALS:
            hint = (
                f"{at}does the server not know a parameter? dialect is {self._dialect!r}; name another "
                "(--dialect; dialect of an endpoint in a recipe)"
            )
            return Fault(f"the server refused the prompt, {said}", hint, may_pass=False, is_of_prompt=True)
        hint = "check the address and the model's name"
        if status in (401, 403):
            hint = f"check the key in the environment variable {self._api_key_env}"
        if status != 403 and not has_answered:
            raise EngineError(f"the server answered with {said}{at}{hint}")
        return Fault(f"the server refused the prompt, {said}", f"{at}{hint}", may_pass=False)

    def _scrub(self, text: str) -> str:
        # Servers like to quote the key they were given.
        return text.replace(self._key, "***") if self._key else text


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
