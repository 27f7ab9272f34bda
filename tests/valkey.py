"""A Valkey or Redis server on loopback, for tests of the vectors that several machines share."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from own_port import own_port
from patience import PATIENCE_S, until

_PROGRAM = shutil.which("valkey-server") or shutil.which("redis-server")


class Valkey:
    """A server that can be stopped and started again on its port; it forgets what it knew."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = own_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start it, and wait until it answers."""
        assert _PROGRAM is not None
        usual = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(self._folder))
        command = [_PROGRAM, "--port", str(self.port), *usual, *options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until(lambda: self.process.poll() is not None or self._listens())
        assert self.process.poll() is None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The server's process."""
        assert self._process is not None
        return self._process

    def stop(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_S)

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A server that runs; skipped where there is none to run, but never in CI."""
    if _PROGRAM is None:
        if os.environ.get("CI"):
            raise FileNotFoundError("There is no valkey-server or redis-server. Install Debian's package redis-server.")
        pytest.skip("there is neither valkey-server nor redis-server to test with")
    server = Valkey(tmp_path)
    server.start()
    yield server
    server.stop()
