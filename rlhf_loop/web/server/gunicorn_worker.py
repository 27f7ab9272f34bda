"""The worker process of `rlhf-loop serve`: gunicorn's thread worker, safe against slow clients and invalid requests.

Gunicorn reads a request in the thread that will answer it, so that a few clients who never finish theirs would occupy
all threads. Here a request waits for its end outside of them.
"""

from __future__ import annotations

import io
import logging
import re
import socket
import uuid
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from selectors import EVENT_READ
from time import monotonic
from typing import Any

from gunicorn.http import errors, get_parser  # type: ignore[import-untyped]
from gunicorn.http.unreader import SocketUnreader  # type: ignore[import-untyped]
from gunicorn.util import write_nonblock  # type: ignore[import-untyped]
from gunicorn.workers.gthread import _DEFER, TConn, ThreadWorker  # type: ignore[import-untyped]

from rlhf_loop.answering import MAX_QUERY_CHARS
from rlhf_loop.web import logs
from rlhf_loop.web.app import MAX_BODY_BYTES
from rlhf_loop.web.problems import MEDIA_TYPE
from rlhf_loop.web.schemas import ProblemOut

logger = logging.getLogger(__name__)

#: What gunicorn does not promise to keep, and the worker below stands on: methods, and attributes of instances.
_METHODS = ("accept", "finish_request", "handle", "handle_error", "murder_pending", "set_accept_enabled")
_ATTRIBUTES = {
    ThreadWorker: ("nr_conns", "pending_conns", "poller"),
    TConn: ("client", "data_ready", "parser", "sock", "timeout"),
}
#: A request is here that long after its first byte, or it is refused.
READING_S = 10.0
#: Who has got the last answer may take that long to hang up; who says nothing as the server stops, to begin.
_LINGER_S = 2.0
#: Of a request's headers, all together.
_LONGEST_HEAD = 64 * 1024
_PIECE = 64 * 1024

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*(?:\r|$)", re.IGNORECASE)
#: Bodies that come in pieces, or only once they are asked for: these are read in the thread.
_PIECEMEAL = re.compile(rb"\r\n(?:transfer-encoding|expect):", re.IGNORECASE)

#: What gunicorn cannot read, with what to do about it. The exceptions' own words quote the request: they go nowhere.
_REFUSALS = {
    errors.LimitRequestLine: (
        HTTPStatus.REQUEST_URI_TOO_LONG,
        f"The address is too long. Send the question by POST, as JSON: at most {MAX_QUERY_CHARS:,} characters.",
    ),
    errors.LimitRequestHeaders: (
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        "The headers of the request are too large. Send fewer and shorter ones, cookies included.",
    ),
    errors.ExpectationFailed: (
        HTTPStatus.EXPECTATION_FAILED,
        "The header Expect asks for what there is not. Leave it out.",
    ),
    errors.UnsupportedTransferCoding: (
        HTTPStatus.NOT_IMPLEMENTED,
        "The header Transfer-Encoding names a coding that is not known here. Send the body as it is, or chunked.",
    ),
}
_UNREADABLE = (
    HTTPStatus.BAD_REQUEST,
    "The request is not HTTP as RFC 9112 has it. Percent-encode spaces and other signs in the address, and look at "
    "the names of the headers.",
)
_TOO_SLOW = (
    HTTPStatus.REQUEST_TIMEOUT,
    f"The request was not here {READING_S:g} seconds after it had begun. Send it again, all at once.",
)
_BROKEN = (
    HTTPStatus.INTERNAL_SERVER_ERROR,
    "Something unexpected happened here. The log says what, under the request id.",
)


def missing_parts() -> list[str]:
    """Return what the worker needs of gunicorn and this version does not have."""
    found = [f"ThreadWorker.{name}" for name in _METHODS if not hasattr(ThreadWorker, name)]
    for kind, names in _ATTRIBUTES.items():
        found += [f"{kind.__name__}.{name}" for name in names if name not in kind.__init__.__code__.co_names]
    return found


class Worker(ThreadWorker):  # type: ignore[misc]
    """Gives a request to a thread when it is here, and takes in at its end whoever is connected already and waits.

    A connection whose request is incomplete is one of gunicorn's `pending_conns`, as is one that is being closed.
    """

    def set_accept_enabled(self, enabled: bool) -> None:
        if not enabled and not self.alive:
            for listener in self.sockets:
                # Gunicorn's own would hang up on them.
                before = -1
                while self.nr_conns != before:
                    before = self.nr_conns
                    self.accept(listener)
            for conn in self.pending_conns:
                conn.timeout = min(conn.timeout, monotonic() + _LINGER_S)
        super().set_accept_enabled(enabled)
        if not self.alive:
            # Now, not when the last answer is given: until then the system would take more in.
            for listener in self.sockets:
                with suppress(OSError):
                    listener.close()

    def handle(self, conn: Any) -> Any:
        if conn.parser is None:
            conn.parser = get_parser(self.cfg, conn.sock, conn.client)
            conn.parser.unreader = _Reader(conn.sock)
        reader: _Reader = conn.parser.unreader
        result = _DEFER
        try:
            here = reader.take_in()
            # At the end there is no later: then the thread waits.
            if here or not self.alive:
                conn.data_ready = here or reader.begun
                result = super().handle(conn)
        except errors.LimitRequestHeaders as error:
            self.handle_error(None, conn.sock, conn.client, error)
            result = False
        if result is not _DEFER:
            reader.due = None
        return result

    def finish_request(self, conn: Any, fs: Any) -> None:
        if fs.cancelled() or fs.exception() or fs.result():
            super().finish_request(conn, fs)
            return
        # Gunicorn's own waits here for the client to hang up, and lets nobody in meanwhile.
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            conn.sock.setblocking(False)
            self.poller.register(conn.sock, EVENT_READ, partial(self._drain, conn))
        except (OSError, ValueError):
            self.nr_conns -= 1
            conn.close()
            return
        conn.timeout = monotonic() + _LINGER_S
        self.pending_conns.append(conn)

    def murder_pending(self) -> None:
        now = monotonic()
        for conn in list(self.pending_conns):
            due = conn.parser.unreader.due
            if due is not None and now > due:
                _refuse(conn.sock, *_TOO_SLOW)
            elif due is not None or now < conn.timeout:
                continue
            self._hang_up(conn)

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        # What the application may not send is no fault of the client's, though its class says so.
        ours = isinstance(exc, (errors.InvalidResponseHeader, errors.InvalidResponseHeaderName))
        if ours or not isinstance(exc, errors.ParseException):
            _refuse(client, *_BROKEN, error=exc)
        elif req is None:
            _refuse(client, *_REFUSALS.get(type(exc), _UNREADABLE), why=type(exc).__name__)
        # Else the request has its answer, and only what was left of its body is broken.

    def _drain(self, conn: Any, client: socket.socket) -> None:
        try:
            if client.recv(_PIECE):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._hang_up(conn)

    def _hang_up(self, conn: Any) -> None:
        self.pending_conns.remove(conn)
        with suppress(OSError, KeyError, ValueError):
            self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()


class _Reader(SocketUnreader):  # type: ignore[misc]
    """Bytes that a client has sent. From a request's first byte on, `due` says when its last one must be here."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.buf = io.BytesIO()
        self.due: float | None = None

    @property
    def begun(self) -> bool:
        return bool(self.buf.getbuffer().nbytes)

    def take_in(self) -> bool:
        """Read what is there without waiting, and tell whether a thread can go on with it.

        Raises:
            LimitRequestHeaders: the headers find no end.
        """
        data = bytearray(self.buf.getvalue())
        self.sock.setblocking(False)
        ended = False
        try:
            while not (ended or _complete(data)):
                piece = self.sock.recv(_PIECE)
                data += piece
                ended = not piece
        except BlockingIOError:
            return False
        except OSError:
            # The connection is broken. Gunicorn finds that out as well.
            return True
        finally:
            self.sock.setblocking(True)
            self.buf = io.BytesIO()
            self.buf.write(data)
            if data and self.due is None:
                self.due = monotonic() + READING_S
        return True

    def chunk(self, size_hint: int | None = None) -> bytes:
        # Gunicorn bounds it itself where it skips what nobody has read.
        before = self.sock.gettimeout()
        if self.due is None:
            self.due = monotonic() + READING_S
        rest = self.due - monotonic()
        if rest <= 0:
            raise TimeoutError("The request is too slow.")
        self.sock.settimeout(rest if before is None else min(rest, before))
        try:
            return bytes(super().chunk(size_hint))
        finally:
            self.sock.settimeout(before)


def _complete(data: bytearray) -> bool:
    """Tell whether it is a whole request, or one whose body is read, or refused, by who answers it."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        if len(data) > _LONGEST_HEAD:
            raise errors.LimitRequestHeaders("no end")
        return False
    found = _LENGTH.search(head)
    return found is None or not len(body) < int(found[1]) <= MAX_BODY_BYTES or _PIECEMEAL.search(head) is not None


def _refuse(
    client: socket.socket, status: HTTPStatus, detail: str, *, why: str = "", error: BaseException | None = None
) -> None:
    """Refuse a request that the application never sees."""
    name = uuid.uuid4().hex
    logger.log(
        logging.ERROR if error else logging.WARNING,
        "A request is refused before it is one: %s",
        " ".join(filter(None, (status.phrase, why))),
        exc_info=error,
        extra={"status": status.value, "request_id": name},
    )
    body = ProblemOut(
        type="about:blank", title=_title(status), status=status, detail=detail, request_id=name
    ).model_dump_json()
    head = (
        f"HTTP/1.1 {status.value} {_title(status)}\r\nConnection: close\r\n{logs.HEADER}: {name}\r\n"
        f"Content-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body.encode())}\r\n\r\n"
    )
    with suppress(OSError):
        write_nonblock(client, (head + body).encode())


def _title(status: HTTPStatus) -> str:
    # RFC 9110's name; Python has that of an older one.
    return "URI Too Long" if status == HTTPStatus.REQUEST_URI_TOO_LONG else status.phrase
