"""Connections of the server's process, by themselves: a transport that can be told how much a client takes."""

from __future__ import annotations

import asyncio
import io
import resource
from types import SimpleNamespace
from typing import IO, Any, cast

import pytest

from rlhf_loop.web.server import gunicorn_worker
from rlhf_loop.web.server.gunicorn_worker import Worker, _Answer, _Connection, _files


class FakeTransport(asyncio.Transport):
    """A client's end: it takes all, or after some pieces no more, or has hung up by then."""

    def __init__(self, *, takes: float = float("inf"), gone: bool = False) -> None:
        super().__init__()
        self.takes, self.gone = takes, gone
        self.written: list[bytes] = []
        self.reading, self.aborted = True, False
        self.connection: _Connection | None = None

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))
        assert self.connection is not None
        if len(self.written) >= self.takes and not self.gone:
            self.connection.pause_writing()

    def is_closing(self) -> bool:
        return self.gone and len(self.written) >= self.takes

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0

    def get_write_buffer_size(self) -> int:
        return len(self.written[-1])

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def write_eof(self) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


class FakeSocket:
    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 8000


def connected(transport: FakeTransport) -> _Connection:
    """A connection that a client has sent a whole request by."""
    worker = SimpleNamespace(
        cfg=SimpleNamespace(keepalive=75),
        alive=True,
        held=0,
        make_room=lambda: None,
        rest=lambda _: None,
        pool=None,
        wsgi=None,
        loop=SimpleNamespace(run_in_executor=lambda *_: SimpleNamespace(add_done_callback=lambda _: None)),
    )
    connection = transport.connection = _Connection(cast(Worker, worker), cast(Any, FakeSocket()), ("192.0.2.1", 5000))
    connection.connection_made(transport)
    return connection


def answered(transport: FakeTransport, body: IO[bytes], headers: dict[str, str]) -> _Connection:
    """A connection whose request the application has answered."""
    connection = connected(transport)
    connection.data_received(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert connection.working
    future: Any = SimpleNamespace(result=lambda: _Answer(200, "OK", [*headers.items()], body))
    connection._worked(future)
    return connection


def test_nothing_is_read_while_a_refusal_is_not_fetched() -> None:
    """It would be kept where nobody counts it. Once the client has fetched all, it is read on, to be thrown away."""
    transport = FakeTransport(takes=1)
    connection = connected(transport)
    connection.data_received(b"GET / HTTP/1.1\r\n\r\n")
    assert transport.written[0].startswith(b"HTTP/1.1 400 ")
    assert not transport.reading
    transport.takes = float("inf")
    connection.resume_writing()
    assert transport.reading


def test_nothing_is_written_to_a_client_that_has_hung_up() -> None:
    """Not one piece more of a file: each would be a line of the log."""
    transport = FakeTransport(takes=3, gone=True)
    answered(transport, io.BytesIO(b"x" * 2_000_000), {"Content-Length": "2000000"})
    assert len(transport.written) == 3


def test_headers_that_are_not_ascii(caplog: pytest.LogCaptureFixture) -> None:
    """They go out as PEP 3333 has them, in Latin-1; others end the connection at once, and the log says why."""
    transport = FakeTransport()
    answered(transport, io.BytesIO(), {"X-Name": "Zoë", "Content-Length": "0"})
    assert b"X-Name: Zo\xeb\r\n" in transport.written[0]
    assert not transport.aborted
    transport = FakeTransport()
    answered(transport, io.BytesIO(), {"X-Name": "☃", "Content-Length": "0"})
    assert (transport.written, transport.aborted) == ([], True)
    assert "cannot be sent" in caplog.text


@pytest.mark.parametrize(
    ("soft", "hard", "allowed", "files"),
    [
        (256, 524_288, True, 10_240),
        (256, -1, True, 10_240),
        (256, 256, True, 256),
        (1024, 4096, True, 4096),
        (1024, 4096, False, 1024),
        (20_000, 20_000, True, 20_000),
        (-1, -1, True, 10_240),
    ],
)
def test_files_that_may_be_open(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, allowed: bool, files: int
) -> None:
    """A limit that is only a default is raised, to what the process needs; a system may have one that it hides."""
    raised: list[tuple[int, int]] = []

    def setrlimit(_: int, limits: tuple[int, int]) -> None:
        raised.append(limits)
        if not allowed:
            raise ValueError("not allowed to exceed maximum limit")

    fake = SimpleNamespace(
        RLIMIT_NOFILE=resource.RLIMIT_NOFILE, RLIM_INFINITY=-1, getrlimit=lambda _: (soft, hard), setrlimit=setrlimit
    )
    monkeypatch.setattr(gunicorn_worker, "resource", fake)
    assert _files() == files
    assert raised == ([] if soft in (-1, hard) else [(files if allowed else hard, hard)])
