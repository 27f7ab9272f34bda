"""A proxy on loopback that keeps what goes through it, so that tests can send the very same again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_TIMEOUT_S = 60
#: Headers that a proxy does not pass on.
_OWN = {"host", "connection", "content-length", "transfer-encoding", "keep-alive"}
#: Headers of a request that may matter to a server; what else there is names versions and machines.
_KEPT = ("accept", "content-type")


@dataclass(frozen=True)
class Exchange:
    """A request as it came, and the status of its answer."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    status: int


@dataclass
class Recorder:
    """A recorder's address, and the requests since `take` was called last."""

    url: str
    _seen: list[Exchange] = field(default_factory=list)

    def take(self) -> list[Exchange]:
        """Return what came, and forget it."""
        taken, self._seen[:] = list(self._seen), []
        return taken


@contextmanager
def recording(server: str) -> Iterator[Recorder]:
    """Pass requests on to the server, which sees that they did not come straight from this machine."""
    target, seen = urlsplit(server).netloc, []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _OWN}
            there = HTTPConnection(target, timeout=_TIMEOUT_S)
            there.request(self.command, self.path, body, {**headers, "Via": "1.1 recorder"})
            answer = there.getresponse()
            data = answer.read()
            there.close()
            kept = {name: self.headers[name] for name in _KEPT if name in self.headers}
            seen.append(Exchange(self.command, self.path, kept, json.loads(body or b"null"), answer.status))
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in (*_OWN, "date", "server"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.daemon_threads = True
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield Recorder(f"http://127.0.0.1:{proxy.server_port}", seen)
    finally:
        proxy.shutdown()
        proxy.server_close()
