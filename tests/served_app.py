"""An app behind a real socket, for tests whose client is a browser or the client library."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any

from werkzeug.serving import WSGIRequestHandler, make_server

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: object) -> None:
        pass


class Connections:
    """Connections that a server has taken and not ended yet."""

    def __init__(self) -> None:
        self._lock, self.open = threading.Lock(), 0

    def count(self, server: ThreadingMixIn) -> None:
        """Count those of a server from now on."""
        begin, work = server.process_request, server.process_request_thread

        def begun(*connection: Any) -> None:
            with self._lock:
                self.open += 1
            begin(*connection)

        def worked(*connection: Any) -> None:
            try:
                work(*connection)
            finally:
                with self._lock:
                    self.open -= 1

        server.process_request, server.process_request_thread = begun, worked  # type: ignore


@contextmanager
def served_app(app: WSGIApplication, *, threaded: bool = True, connections: Connections | None = None) -> Iterator[str]:
    """Serve on a free port of loopback; the address, without a slash at its end."""
    server = make_server("127.0.0.1", 0, _at_once(app), threaded=threaded, request_handler=_Quiet)
    if connections is not None:
        assert isinstance(server, ThreadingMixIn)
        connections.count(server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _at_once(app: WSGIApplication) -> WSGIApplication:
    """Read an answer whole and close it: Werkzeug leaves a file open whose reader is gone too early."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        parts = app(environ, start_response)
        try:
            return [b"".join(parts)]
        finally:
            getattr(parts, "close", lambda: None)()

    return answer
