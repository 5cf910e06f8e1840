"""How a server is reached: the key, clients that leave loopback to no proxy, and the server's own words for a fault."""

from __future__ import annotations

import ipaddress
import json
import os
import urllib.request
from typing import Any
from urllib.parse import urlsplit

import openai

from synth.engines.base import EngineError

NO_KEY = "none"
"""What servers without keys get: they ignore the header, but the client insists on one."""
MAX_WORDS = 300
"""Longest quotation of a server, in characters."""


def read_key(variable: str) -> str:
    """Read a key from the environment; empty where it is not set.

    White space at its ends goes, as a file from another system leaves it there.

    Raises:
        EngineError: no header can hold it, or it stands in quotation marks; the message does not hold the key.
    """
    key = os.environ.get(variable, "").strip()
    where = f"the key in the environment variable {variable}"
    if not key.isascii():
        raise EngineError(f"{where} holds a character that is not ASCII (a dash or quotation mark?) - copy it again")
    if any(not character.isprintable() for character in key):
        raise EngineError(f"{where} holds a control character or line break - copy it again")
    if len(key) > 1 and key[0] == key[-1] and key[0] in "\"'`":
        raise EngineError(f"{where} stands in quotation marks - leave them out")
    return key


def open_client(base_url: str, key: str, timeout_s: float, max_retries: int) -> openai.OpenAI:
    """Open a client; a server on this machine is asked directly, whatever proxy the environment names.

    Raises:
        EngineError: the environment names a proxy that cannot be used.
    """
    http = openai.DefaultHttpxClient(trust_env=False) if is_loopback(base_url) else None
    try:
        return openai.OpenAI(
            api_key=key or NO_KEY, base_url=base_url, timeout=timeout_s, max_retries=max_retries, http_client=http
        )
    except (ImportError, ValueError) as error:
        raise _bad_proxy(base_url, error) from error


def open_async_client(base_url: str, key: str, timeout_s: float) -> openai.AsyncOpenAI:
    """Do what `open_client` does, for the event loop; it asks nothing twice by itself."""
    http = openai.DefaultAsyncHttpxClient(trust_env=False) if is_loopback(base_url) else None
    try:
        return openai.AsyncOpenAI(
            api_key=key or NO_KEY, base_url=base_url, timeout=timeout_s, max_retries=0, http_client=http
        )
    except (ImportError, ValueError) as error:
        raise _bad_proxy(base_url, error) from error


def _bad_proxy(base_url: str, error: Exception) -> EngineError:
    return EngineError(f"no client for {base_url}{proxy_of(base_url)} could be made ({error}) - change the environment")


def is_loopback(base_url: str) -> bool:
    """Tell whether an address is this machine's own."""
    host = (urlsplit(base_url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def proxy_of(base_url: str) -> str:
    """Name the proxy that the environment puts before an address, for messages; empty where there is none."""
    parts = urlsplit(base_url)
    if is_loopback(base_url) or urllib.request.proxy_bypass(parts.hostname or ""):
        return ""
    proxies = urllib.request.getproxies()
    name = parts.scheme if parts.scheme in proxies else "all"
    if name not in proxies:
        return ""
    proxy = urlsplit(proxies[name])  # it may hold a password
    return f" through the proxy {proxy.scheme}://{proxy.hostname}:{proxy.port} (environment variable {name}_proxy)"


def cause_of(error: BaseException) -> str:
    """Say why a connection failed, in the words of the innermost error."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return f"{type(error).__name__}: {error}"[:MAX_WORDS] if str(error) else type(error).__name__


def words_of(body: Any) -> str:
    """Find the server's own words in the body of a fault, whatever its form.

    OpenAI's `{"error": {"message"}}`, a bare `error`, `message` or `detail` as a text, FastAPI's list of
    `{"loc", "msg"}`, or a page of text.
    """
    while isinstance(body, dict):
        named = [body[key] for key in ("error", "message", "detail", "errors", "msg") if body.get(key)]
        if not named:
            break
        body = named[0]
    if isinstance(body, list):
        return "; ".join(_one_fault(fault) for fault in body)[:MAX_WORDS]
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    return " ".join(text.split())[:MAX_WORDS]


def _one_fault(fault: Any) -> str:
    place = ".".join(str(part) for part in fault["loc"]) if isinstance(fault, dict) and fault.get("loc") else ""
    return f"{place}: {words_of(fault)}" if place else words_of(fault)
