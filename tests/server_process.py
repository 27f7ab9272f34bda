"""The real server in processes of its own: `rlhf-loop serve`, its port, and what it printed."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection
from pathlib import Path
from types import MappingProxyType
from typing import Any

import forked_process
import pytest
from patience import PATIENCE_S, until

from rlhf_loop.web.server.server import GRACE_S

#: A source that answers at once, or once it may: when the file that the question names is there.
SOURCE = """
import time
from pathlib import Path
from types import MappingProxyType
from rlhf_loop.domain import Passage

class Mine:
    name = "mine"

    def search(self, query, *, limit):
        if query.startswith("wait for "):
            file = Path(query.removeprefix("wait for "))
            file.with_suffix(f".{time.monotonic_ns()}.asked").touch()
            while not file.exists():
                time.sleep(0.01)
        return [Passage(text="Rest in a dark room."), Passage(text="Handball is a game.")]

source = Mine()
"""


class Server:
    """A running `rlhf-loop serve`, its port, and what it printed."""

    def __init__(self, folder: Path, environ: dict[str, str], *options: str, values: Mapping[str, float]) -> None:
        self.log, self._out = folder / "server.log", folder / f"server-{time.monotonic_ns()}.out"
        self.log.unlink(missing_ok=True)
        self.process = forked_process.start(
            ["serve", "--port", "0", *options], environ=environ, log=self.log, out=self._out, values=values
        )
        until(lambda: "\nWorkers" in self.greeting or self.process.ended())
        found = re.search(r"http://[^/\s]+:(\d+)/data-html", self.greeting)
        assert found, self.log.read_text()
        self.port = int(found[1])
        until(lambda: self.get("/readyz")[0] == 200)

    @property
    def greeting(self) -> str:
        """What it has printed."""
        return self._out.read_text() if self._out.exists() else ""

    def send(self, data: bytes) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        client.sendall(data)
        return client

    def connect(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        connection = self.connect()
        try:
            return get(connection, path, **headers)
        finally:
            connection.close()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def stop(self) -> int:
        self.process.send(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        return self.process.wait(PATIENCE_S)


def get(connection: HTTPConnection, path: str, **headers: str) -> tuple[int, Any]:
    connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


@pytest.fixture
def environ(tmp_path: Path, encoder_cache: Path, model_folder: Path) -> dict[str, str]:
    (tmp_path / "my_source.py").write_text(SOURCE)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RLHF_")}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "RLHF_CACHE_DIR": str(encoder_cache),
        "RLHF_ENCODER_THREADS": "1",
        "RLHF_ENCODER_PATH": str(model_folder),
        "RLHF_SOURCES": "my_source:source",
        "RLHF_SOURCE_DEADLINE_S": str(PATIENCE_S),
    }


@pytest.fixture
def start(tmp_path: Path, environ: dict[str, str]) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(
        *options: str,
        reading_s: float = 3600,
        most: int = 4096,
        grace_s: float = GRACE_S,
        values: Mapping[str, float] = MappingProxyType({}),
        **changes: str,
    ) -> Server:
        package = "rlhf_loop.web.server"
        more = {
            f"{package}.gunicorn_worker:READING_S": reading_s,
            f"{package}.gunicorn_worker:MOST_CONNECTIONS": most,
            f"{package}.gunicorn_worker:LEAVING_S": PATIENCE_S,
            f"{package}.server:LEAVING_S": PATIENCE_S,
            f"{package}.server:GRACE_S": grace_s,
            **values,
        }
        started.append(Server(tmp_path, {**environ, **changes}, *options, values=more))
        return started[-1]

    yield start
    for server in started:
        if not server.process.ended():
            server.process.kill()
