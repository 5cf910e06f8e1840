"""A chat server on loopback that goes wrong as it is told to, and counts what it is asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = Callable[[int, dict[str, Any]], str | None]


def answer(body: dict[str, Any]) -> str:
    return f"{body['messages'][-1]['content']} with {body['seed']}"


def echo(body: dict[str, Any], logprobs_of: Callable[[list[int]], list[float | None]]) -> dict[str, Any]:
    """Give the log-probs of a prompt and of one token after it, as vLLM does for echo and logprobs."""
    logprobs = [*logprobs_of(body["prompt"]), -0.5]
    choice = {"index": 0, "finish_reason": "length", "text": "x", "logprobs": {"token_logprobs": logprobs}}
    return {"id": "x", "object": "text_completion", "created": 0, "model": "tiny", "choices": [choice]}


def completion(text: str, **changes: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}, **changes}
    return {"id": "x", "object": "chat.completion", "choices": [choice], "usage": {"completion_tokens": 3}}


class FaultyServer:
    """Answer requests; `fault(number, body)` names what goes wrong with the request of that number, or None.

    Where `logprobs_of` is given it also answers /completions, with the log-probs of the prompt's token ids.

    Attributes:
        bodies: what was asked, in order of arrival.
        keys: the Authorization header of each request.
        answered: the bodies that got a good answer.
    """

    def __init__(
        self,
        fault: Fault = lambda number, body: None,
        logprobs_of: Callable[[list[int]], list[float | None]] | None = None,
    ) -> None:
        self.fault = fault
        self.logprobs_of = logprobs_of
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.answered: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"faulty": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> FaultyServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    faulty: FaultyServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        return

    def do_POST(self) -> None:
        server = self.faulty
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            number = len(server.bodies)
            server.bodies.append(body)
            server.keys.append(self.headers.get("Authorization"))
            server.times.append(time.monotonic())
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        try:
            self._reply(server.fault(number, body), body)
        finally:
            with server.lock:
                server.under_way -= 1

    def _reply(self, fault: str | None, body: dict[str, Any]) -> None:
        if self.path.endswith("/completions") and "prompt" in body and not (fault or "").isdigit():
            return self._echo(fault, body)
        good = completion(answer(body) if "messages" in body else "")
        if fault is None:
            with self.faulty.lock:
                self.faulty.answered.append(body)
            return self._send(200, good)
        if fault.isdigit():
            error = {"error": {"message": f"fault {fault}, key {self.headers.get('Authorization')}"}}
            return self._send(int(fault), error, {"Retry-After": "0.2"} if fault == "429" else {})
        if fault == "stall":
            time.sleep(4.0)
            return self._send(200, good)
        if fault == "slow":
            time.sleep(0.05)
            return self._send(200, good)
        if fault == "truncated":
            return self._send_part(json.dumps(good).encode(), whole_length=True)
        if fault == "truncated json":
            return self._send_part(json.dumps(good).encode(), whole_length=False)
        if fault == "hang up":
            self.close_connection = True
            return self.connection.close()
        return self._send(200, REPLIES[fault](good))

    def _echo(self, fault: str | None, body: dict[str, Any]) -> None:
        if self.faulty.logprobs_of is None:
            return self._send(404, {"error": {"message": "no such address"}})
        good = echo(body, self.faulty.logprobs_of)
        if fault == "no echo":  # the one token that was drawn
            good["choices"][0]["logprobs"]["token_logprobs"] = [-0.5]
        if fault == "no logprobs":
            good["choices"][0]["logprobs"] = None
        if fault == "holes":
            good["choices"][0]["logprobs"]["token_logprobs"][-4] = None
        return self._send(200, good)

    def _send(self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _send_part(self, data: bytes, whole_length: bool) -> None:
        part = data[: len(data) // 2]
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data) if whole_length else len(part)))
        self.end_headers()
        self.wfile.write(part)
        self.close_connection = True


REPLIES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "two choices": lambda good: {**good, "choices": good["choices"] * 2},
    "no choices": lambda good: {**good, "choices": []},
    "choices missing": lambda good: {key: value for key, value in good.items() if key != "choices"},
    "no finish reason": lambda good: completion("cut", finish_reason=None),
    "no content": lambda good: completion("x", message={"role": "assistant", "content": None}),
    "no usage": lambda good: {key: value for key, value in good.items() if key != "usage"},
    "filtered": lambda good: completion("x", finish_reason="content_filter"),
    "cut": lambda good: completion("cut answer", finish_reason="length"),
    "empty": lambda good: completion(""),
}
