"""A test double of a language model: it writes what it is told to, by OpenAI's protocol, on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from patience import PATIENCE_S

from rlhf_loop.answering import best_of


class Endpoint:
    """An endpoint on loopback that speaks chat completions; `reply` decides what each request gets."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, Any], str]] = []
        self.reply: Callable[[dict[str, Any]], tuple[int, object]] = lambda body: (200, completion("A draft."))
        self.location = ""
        self.headers: list[list[str]] = []
        self.released = threading.Event()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.headers.append(list(self.headers.values()))
                endpoint.requests.append((body, self.headers["Authorization"]))
                status, answer = endpoint.reply(body)
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                if endpoint.location:
                    self.send_header("Location", endpoint.location)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def hang(self, body: dict[str, Any]) -> tuple[int, object]:
        self.released.wait(PATIENCE_S)
        return 200, completion("Too late.")

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def patient_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine, no draft is late that comes at all."""
    monkeypatch.setattr(best_of, "_AT_LEAST_S", PATIENCE_S)


def completion(text: str | None, *, reason: str = "stop") -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "small",
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
    }
