"""A PostgreSQL server that can be cut off: a proxy on loopback, in front of the real one."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from sqlalchemy import make_url


class Outage:
    """Passes bytes between clients and the server behind `url`; `cut` and `hang` end that, `restore` brings it back."""

    def __init__(self, url: str) -> None:
        behind = make_url(url)
        folder = str(behind.query["host"])
        self._behind = f"{folder}/.s.PGSQL.5432"
        self._mode = "pass"
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._port = self._server.getsockname()[1]
        there = behind.set(host="127.0.0.1", port=self._port, query={})
        self.url = there.render_as_string(hide_password=False)
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Close all connections, and let nobody connect: the server is gone."""
        with self._lock:
            self._mode = "cut"
            for each in self._open:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()
            self._open.clear()

    def hang(self) -> None:
        """Keep all connections open, accept new ones, and never say anything again: the server is stuck."""
        self._mode = "hang"

    def restore(self) -> None:
        """Let bytes pass again, for new connections; those that hung are closed."""
        self.cut()
        self._mode = "pass"

    def close(self) -> None:
        self.cut()
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            with self._lock:
                if self._mode == "cut":
                    client.close()
                    continue
                self._open.append(client)
                if self._mode == "hang":
                    continue
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._behind)
                self._open.append(server)
            for ends in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if self._mode == "hang":
                    return
                sink.sendall(data)
        if self._mode == "pass":
            for each in (source, sink):
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
