"""A web site on loopback whose answers a test writes byte by byte, bad ones too."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class SeenRequest:
    """A request as it came in; `at` is on the clock `time.monotonic`."""

    path: str
    params: Mapping[str, str]
    headers: Message
    client: tuple[str, int]
    at: float
    body: bytes = b""
    method: str = "GET"


#: The whole answer, status line and headers included, in one or more pieces.
Answer = bytes | Iterable[bytes]


class Site:
    """Answers each request with what `answer` returns for it, and remembers the requests."""

    def __init__(self, answer: Callable[[SeenRequest], Answer], *, certificate: Path | None = None) -> None:
        self.seen: list[SeenRequest] = []
        self.hung_up = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(answer))
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.port = self._server.server_address[1]
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.port}/api"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            # The handshake happens in the thread of each request, not where connections are accepted.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def _handler(site, answer: Callable[[SeenRequest], Answer]) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                params = dict(parse_qsl(parts.query, keep_blank_values=True))
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                seen = SeenRequest(
                    parts.path, params, self.headers, self.client_address, time.monotonic(), body, self.command
                )
                site.seen.append(seen)
                given = answer(seen)
                self.close_connection = not isinstance(given, bytes) or b"\r\nContent-Length:" not in given
                try:
                    for piece in [given] if isinstance(given, bytes) else given:
                        self.wfile.write(piece)
                except OSError:
                    site.hung_up.set()

            do_HEAD = do_POST = do_GET

            def handle(self) -> None:
                with suppress(OSError):  # hung up on, or no handshake
                    super().handle()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler


@contextmanager
def site(answer: Callable[[SeenRequest], Answer] | Answer, *, certificate: Path | None = None) -> Iterator[Site]:
    """Serve what `answer` returns, or always the same answer; with a certificate, over TLS."""
    made = Site(answer if callable(answer) else lambda _: answer, certificate=certificate)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def in_turn(*answers: Answer) -> Iterator[Site]:
    """Serve the answers one after the other, the last one for ever."""
    rest = chain(answers, repeat(answers[-1]))
    with site(lambda _: next(rest)) as made:
        yield made


def page(
    body: bytes | str = b"", *, status: int = 200, kind: str = "text/plain", headers: Mapping[str, str] | None = None
) -> bytes:
    """Return a whole answer with this body."""
    body = body.encode() if isinstance(body, str) else body
    fields = {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} So\r\n{head}\r\n".encode("latin-1") + body


def json_page(value: object, **headers: str) -> bytes:
    """Return an answer of JSON; `Retry_After` is the header Retry-After."""
    fields = {name.replace("_", "-"): text for name, text in headers.items()}
    return page(json.dumps(value), kind="application/json; charset=utf-8", headers=fields)


def drops(whole: bytes, *, pause_s: float = 0.02, most: int = 400) -> Iterator[bytes]:
    """Give the first `most` bytes one at a time, then the rest."""
    for at in range(min(most, len(whole))):
        yield whole[at : at + 1]
        time.sleep(pause_s)
    yield whole[most:]
