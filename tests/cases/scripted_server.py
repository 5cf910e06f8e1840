"""An OpenAI-style server on loopback whose replies a test writes, and which remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, Any] | str]
Behaviour = Callable[[dict[str, Any], int], Reply]


def chat(
    content: str | None,
    finish_reason: str | None = "stop",
    completion_tokens: int = 5,
    prompt_tokens: int = 10,
    usage: bool = True,
    **message: Any,
) -> Reply:
    """Make a good reply of /chat/completions; `message` are further fields of it (`reasoning_content`, say)."""
    said = {"role": "assistant", "content": content, **message}
    body: dict[str, Any] = {
        "id": "x", "object": "chat.completion", "created": 0, "model": "m",
        "choices": [{"index": 0, "finish_reason": finish_reason, "message": said}],
    }  # fmt: skip
    if usage:
        total = completion_tokens + prompt_tokens
        body["usage"] = {
            "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total
        }  # fmt: skip
    return 200, body


def refusal(status: int, message: str) -> Reply:
    """Make a refusal in the server's own words."""
    return status, {"error": {"message": message}}


def last_text(body: dict[str, Any]) -> str:
    """Return the text of a request's last message."""
    return body["messages"][-1]["content"]


class ScriptedServer:
    """Answer each POST with `behaviour(body, number)`, numbers from 1 in order of arrival.

    Attributes:
        bodies: what was asked, in order of arrival.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.bodies: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"scripted": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    scripted: ScriptedServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        return

    def do_GET(self) -> None:
        model = {"id": "m", "object": "model", "created": 0, "owned_by": "me"}
        found = self.path.endswith("/models")
        self._send(200, {"object": "list", "data": [model]}) if found else self._send(*refusal(404, "no such page"))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
        with self.scripted.lock:
            self.scripted.bodies.append(body)
            number = len(self.scripted.bodies)
        try:
            self._send(*self.scripted.behaviour(body, number))
        except BrokenPipeError:
            return

    def _send(self, status: int, payload: dict[str, Any] | str) -> None:
        data = (payload if isinstance(payload, str) else json.dumps(payload)).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
