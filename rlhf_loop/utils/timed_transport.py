"""An HTTP transport whose every step, from the connection to the last byte, ends by one deadline.

Timeouts of HTTP libraries are for a single read. A server that sends one byte at a time, of its headers too, keeps each
of them and can hold a thread for ever. Here the network itself knows when the whole has to be over.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpcore2
import httpx2

#: Seconds for which an idle connection is kept.
_KEEP_S = 20
_CONNECTIONS = 10
#: How an exchange with a server by `TimedTransport` fails, whoever of the layers says so.
EXCHANGE_ERRORS = (
    httpcore2.NetworkError,
    httpcore2.TimeoutException,
    httpcore2.ProtocolError,
    httpcore2.UnsupportedProtocol,
    httpx2.HTTPError,
    OSError,
)

_deadline: ContextVar[float] = ContextVar("deadline")


@contextmanager
def all_by(deadline: float) -> Iterator[None]:
    """Let what `TimedTransport` does in this block end by `deadline`, on the clock `time.monotonic`."""
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)


class TimedTransport(httpx2.BaseTransport):
    """Plain HTTP/1.1 inside `all_by`: no proxies, redirects, cookies or credentials, and nothing from the environment.

    Certificates are the exception: SSL_CERT_FILE and SSL_CERT_DIR say whom to trust, not where to go.
    `max_bytes` bounds an answer as it comes over the wire.
    Looking up a name cannot be interrupted; it keeps to the limits of the system's resolver instead.

    Raises, besides `httpx2.HTTPError`: the errors of `httpcore2`.
    """

    def __init__(self, *, secure: bool, connections: int = _CONNECTIONS, max_bytes: int | None = None) -> None:
        self._max_bytes = max_bytes
        self._pool = httpcore2.ConnectionPool(
            ssl_context=httpx2.create_ssl_context() if secure else None,  # reads a large file of certificates
            max_connections=connections,
            keepalive_expiry=_KEEP_S,
            network_backend=_Backend(),
        )

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request; the body is read afterwards, in the same block."""
        url = request.url
        reply = self._pool.handle_request(
            httpcore2.Request(
                method=request.method,
                url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream if isinstance(request.stream, Iterable) else None,
                extensions={"timeout": {"pool": _left()}},
            )
        )
        body = reply.stream
        assert isinstance(body, Iterable)
        return httpx2.Response(
            reply.status, headers=reply.headers, stream=_Body(body, self._max_bytes), request=request
        )

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()


def _left() -> float:
    left = _deadline.get() - time.monotonic()
    if left <= 0:
        raise httpcore2.ReadTimeout("the time is over")
    return left


class _Body(httpx2.SyncByteStream):
    def __init__(self, parts: Iterable[bytes], max_bytes: int | None) -> None:
        self._parts = parts
        self._max_bytes = max_bytes

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for part in self._parts:
            size += len(part)
            if self._max_bytes is not None and size > self._max_bytes:
                raise httpcore2.RemoteProtocolError(f"the answer has more than {self._max_bytes:,} bytes")
            yield part

    def close(self) -> None:
        if close := getattr(self._parts, "close", None):
            close()


class _Backend(httpcore2.NetworkBackend):
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(str(error)) from error
        addresses = dict.fromkeys(str(info[4][0]) for info in found)
        failure: Exception = httpcore2.ConnectError("the name has no address")
        for place, address in enumerate(addresses):
            # A share of the time for each, as the first one may be IPv6 on a machine without it.
            share = _left() / (len(addresses) - place)
            try:
                plain = httpcore2.SyncBackend()
                return _Stream(plain.connect_tcp(address, port, share, local_address, socket_options))
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure


class _Stream(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, _left()))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
