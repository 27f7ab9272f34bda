"""An S3 server on loopback: moto's, over HTTP, with a bucket that keeps what it has while the server is stopped."""

from __future__ import annotations

import json
from functools import cache
from typing import Any
from urllib.request import Request, urlopen

import pytest
from own_port import own_port

#: What makes pyarrow, and any tool of Amazon's, take requests there.
_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
BUCKET = "bucket"


class S3Server:
    """A server that can be stopped and started again on its port."""

    def __init__(self) -> None:
        self._port = own_port()
        self._server: Any = None
        self.environment = {**_KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}", "AWS_REGION": "us-east-1"}

    def start(self) -> None:
        """Start it, and wait until it answers."""
        from moto.server import ThreadedMotoServer

        server = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        server.start()
        self._server = server

    def stop(self) -> None:
        """Stop it; connections to it are refused from now on."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    @property
    def running(self) -> bool:
        """True between start and stop."""
        return self._server is not None

    def empty(self) -> None:
        """Forget everything but an empty bucket."""
        self._send("POST", "moto-api/reset")
        self._send("PUT", BUCKET)

    def forbid(self, action: str) -> None:
        """Refuse an action on the bucket's objects to everybody, by its policy."""
        everything = {"Principal": "*", "Resource": [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"]}
        denied = {"Effect": "Deny", "Action": action, **everything}
        policy = {"Version": "2012-10-17", "Statement": [denied]}
        self._send("PUT", f"{BUCKET}?policy", json.dumps(policy).encode())

    def _send(self, method: str, path: str, body: bytes | None = None) -> None:
        kind = {"Content-Type": "application/json"}
        request = Request(f"http://127.0.0.1:{self._port}/{path}", body, kind, method=method)
        urlopen(request, timeout=60).close()


@cache
def _server() -> S3Server:
    # One for all tests of a process, whose end is its own: what takes long is to load it.
    return S3Server()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A server with an empty bucket, which the environment names."""
    server = _server()
    if not server.running:
        server.start()
    server.empty()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server
