"""The worker process of `rlhf-loop serve`: connections wait in one loop, and only whole requests have threads.

Gunicorn keeps the processes, asyncio the sockets, h11 knows HTTP. Whatever has not arrived, and whatever a client has
not fetched, costs no thread: a few clients who never finish would occupy all of them otherwise.
"""

from __future__ import annotations

import asyncio
import ctypes
import io
import logging
import os
import resource
import signal
import socket
import struct
import sys
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from time import monotonic
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes, urlsplit

import flask
import h11
from gunicorn.workers.base import Worker as BaseWorker  # type: ignore[import-untyped]
from werkzeug.wsgi import FileWrapper

from rlhf_loop.answering import MAX_QUERY_CHARS
from rlhf_loop.web import logs
from rlhf_loop.web.app import MAX_BODY_BYTES, SECURITY_HEADERS
from rlhf_loop.web.problems import MEDIA_TYPE
from rlhf_loop.web.schemas import ProblemOut

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

logger = logging.getLogger(__name__)

#: A request is here that long after its first byte, or it is refused.
READING_S = 10.0
#: Who has got the last answer may take that long to hang up; who says nothing as the server stops, to begin.
_LINGER_S = 2.0
#: What a process has left to itself once requests have no more time, before it is killed.
LEAVING_S = 5
#: Who is about to be connected as the server stops is connected by then.
_ARRIVING_S = 0.1
#: Of an answer, a client fetches something at least that often.
_FETCHING_S = 10.0
#: A body that is not here by then is asked for only if the application wants it.
_ASKING_S = 0.1
_LONGEST_HEAD = 64 * 1024
_PIECE = 64 * 1024
_LONGEST_LINE = 8190
_MOST_HEADERS = 100
#: Of a process: bytes of unfinished requests and of answers not fetched; connections; open files.
_MOST_HELD = 32 * 1024 * 1024
MOST_CONNECTIONS = 4096
_MOST_FILES = 10_240
#: A body in thousands of tiny chunks takes its turns with the other connections.
_EVENTS = 50
#: `SO_ATTACH_FILTER` of Linux, which Python does not name.
_ATTACH_FILTER = 26
#: True in the environment of a request whose body is not here.
BEFORE_BODY = "rlhf_loop.before_body"

_UNREADABLE = (
    HTTPStatus.BAD_REQUEST,
    "The request is not HTTP as RFC 9112 has it. Percent-encode spaces and other signs in the address, name the host, "
    "and look at the names of the headers.",
)
_TOO_LONG = (
    HTTPStatus.REQUEST_URI_TOO_LONG,
    f"The address is too long. Send the question by POST, as JSON: at most {MAX_QUERY_CHARS:,} characters.",
)
_TOO_MANY_HEADERS = (
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "The headers of the request are too large. Send fewer and shorter ones, cookies included.",
)
_NOT_EXPECTED = (HTTPStatus.EXPECTATION_FAILED, "The header Expect asks for what there is not. Leave it out.")
_UNKNOWN_CODING = (
    HTTPStatus.NOT_IMPLEMENTED,
    "The header Transfer-Encoding names a coding that is not known here. Send the body as it is, or chunked.",
)
_UNKNOWN_VERSION = (
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
    "This version of HTTP is not spoken here. Send the request as HTTP/1.1.",
)
_NO_TUNNEL = (HTTPStatus.NOT_IMPLEMENTED, "CONNECT is not possible here. Send the request to the host that it is for.")
_TOO_SLOW = (
    HTTPStatus.REQUEST_TIMEOUT,
    f"The request was not here {READING_S:g} seconds after it had begun. Send it again, all at once.",
)
_BROKEN = (
    HTTPStatus.INTERNAL_SERVER_ERROR,
    "Something unexpected happened here. The log says what, under the request id.",
)
_BY_HINT = {HTTPStatus.NOT_IMPLEMENTED: _UNKNOWN_CODING, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: _TOO_MANY_HEADERS}


class Worker(BaseWorker):  # type: ignore[misc]
    """Answers requests until it is told to stop, then takes in whoever is connected already and lets all finish.

    Where there is no room for one more connection, the one that has waited longest makes it.
    """

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.pool = ThreadPoolExecutor(self.cfg.threads, "rlhf-request")
        #: However many questions wait for a thread, whoever looks after the process hears that it lives.
        self.own_thread = ThreadPoolExecutor(1, "rlhf-alive")
        #: Those that have waited longest come first.
        self.connections: dict[_Connection, None] = {}
        self.held = 0
        # Each is a file, and its answer may be another one; a fifth is left for everything else.
        self._most = max(1, min(MOST_CONNECTIONS, _files() * 2 // 5))
        self._accepting = self._stopping = False
        self._open = True
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[object]] = set()
        self._unread: deque[_Connection] = deque()
        self._closed = 0
        self.loop.add_signal_handler(signal.SIGTERM, self._stop)
        self._accept_more()
        end = float("inf")
        while self.connections or self._open:
            self.notify()
            now = monotonic()
            if not self.alive or self.ppid != os.getppid():
                self._stop()
            if self._stopping:
                end = min(end, now + self.cfg.graceful_timeout - LEAVING_S)
            if now > end:
                break
            for connection in list(self.connections):
                connection.look(now)
            if self._closed:
                logger.warning("Closed %d connections that had waited longest, to make room.", self._closed)
                self._closed = 0
            self._changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), 1.0)

    def make_room(self) -> None:
        """Close those that have waited longest, while unfinished requests and unfetched answers take too much."""
        for connection in list(self.connections):
            if self.held <= _MOST_HELD:
                return
            if connection.held and not connection.working:
                self._close(connection)

    def forget(self, connection: _Connection) -> None:
        """Take out a connection that has ended."""
        self.connections.pop(connection, None)
        self._accept_more()
        if self._stopping:
            self._changed.set()

    def rest(self, connection: _Connection) -> None:
        """Have a connection wait anew: it becomes the last one that has to make room."""
        if connection in self.connections:
            del self.connections[connection]
            self.connections[connection] = None
        self._accept_more()

    def read_later(self, connection: _Connection) -> None:
        """Go on with a long body in its turn: one of them each time that all others were looked after."""
        self._unread.append(connection)
        if len(self._unread) == 1:
            self.loop.call_soon(self._read_one)

    def _read_one(self) -> None:
        # It stays the first until it has been read, so that its own `read_later` starts no second round.
        self._unread[0].read()
        self._unread.popleft()
        if self._unread:
            self.loop.call_soon(self._read_one)

    def _accept_more(self) -> None:
        if not (self._accepting or self._stopping):
            self._accepting = True
            for listener in self.sockets:
                listener.setblocking(False)
                self.loop.add_reader(listener.fileno(), self._accept, listener)

    def _accept_none(self) -> None:
        if self._accepting:
            self._accepting = False
            for listener in self.sockets:
                self.loop.remove_reader(listener.fileno())

    def _accept(self, listener: Any) -> bool:
        """Take in one connection, as the other processes want some, too; tell whether there was one."""
        if len(self.connections) >= self._most and not self._stopping:
            waiting = next((each for each in self.connections if not each.working), None)
            if waiting is None:
                self._accept_none()
                return False
            self._close(waiting)
        try:
            client, address = listener.accept()
        except ConnectionAbortedError:
            return True
        except OSError:
            return False
        client.setblocking(False)
        connection = _Connection(self, client, address)
        self.connections[connection] = None
        task = self.loop.create_task(self.loop.connect_accepted_socket(lambda: connection, client))
        self._tasks.add(task)
        task.add_done_callback(partial(self._connected, connection))
        return True

    def _connected(self, connection: _Connection, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is not None:
            self.forget(connection)

    def _close(self, connection: _Connection) -> None:
        self._closed += 1
        self.connections.pop(connection, None)
        connection.abort()

    def _stop(self) -> None:
        if self._stopping:
            return
        self._stopping, self.alive = True, False
        for listener in self.sockets:
            _admit_no_more(listener)
        self.loop.call_later(_ARRIVING_S, self._shut)

    def _shut(self) -> None:
        """Take in whoever is connected, as to close the port hangs up on them, and close it."""
        self._accept_none()
        for listener in self.sockets:
            while self._accept(listener):
                pass
            # Now, not when the last answer is given: until then the system would take more in.
            with suppress(OSError):
                listener.close()
        self._open = False
        for connection in self.connections:
            connection.stop()
        self._changed.set()


class _BodyAwaitedError(BaseException):
    """The application wants a body that is not here; no fault, so that nothing on the way reports one."""

    def __init__(self, limit: int | None) -> None:
        super().__init__()
        self.limit = MAX_BODY_BYTES if limit is None else limit


class _NotHere(io.RawIOBase):
    """A body that has not arrived. Whoever begins to read has refused nothing, and said how much may come."""

    def readable(self) -> bool:
        return True

    def readinto(self, _: object) -> int:
        raise _BodyAwaitedError(flask.request.max_content_length)


@dataclass(frozen=True, slots=True)
class _Answer:
    """A response, all of it."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: IO[bytes]
    #: Bytes of it that are in memory.
    held: int = 0


class _Connection(asyncio.Protocol):
    """A client's connection: reads a request, has it answered in a thread, writes the answer, and begins anew."""

    def __init__(self, worker: Worker, client: socket.socket, address: Any) -> None:
        self.worker = worker
        #: Bytes of the request and of the answer that are in memory.
        self.held = 0
        #: A thread has the request.
        self.working = False
        self._names = client.getsockname(), address
        self._transport: asyncio.Transport | None = None
        self._http = h11.Connection(h11.SERVER, _LONGEST_HEAD)
        self._due = monotonic() + worker.cfg.keepalive
        self._unsent = 0
        self._rest: IO[bytes] = io.BytesIO()
        self._answering = self._last = self._ended = self._lost = False
        self._timer: asyncio.TimerHandle | None = None
        self._reset()

    def _reset(self) -> None:
        self._environ: WSGIEnvironment | None = None
        self._body = bytearray()
        self._begun = self._whole = self._asked = self._expects = False
        self._limit = MAX_BODY_BYTES

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._lost:
            transport.abort()
        # An answer counts as fetched when all of it is.
        transport.set_write_buffer_limits(0)

    def data_received(self, data: bytes) -> None:
        if self._last:
            return
        self._begin()
        self._http.receive_data(data)
        self.read()

    def eof_received(self) -> bool:
        self._ended = True
        if self._last and not self._unsent:
            self.abort()
        elif not self._last:
            self._http.receive_data(b"")
            self.read()
        # Who has nothing more to say may want to hear the answer.
        return True

    def pause_writing(self) -> None:
        assert self._transport is not None
        self._unsent = self._transport.get_write_buffer_size()

    def resume_writing(self) -> None:
        self._unsent = 0
        if self._answering:
            self._send()
        else:
            self.read()

    def connection_lost(self, _: Exception | None) -> None:
        self._lost = True
        self._hold(0)
        self._rest.close()
        if not self.working:
            self.worker.forget(self)

    # What the worker calls.

    def look(self, now: float) -> None:
        """End what takes too long."""
        if self.working or self._lost or self._transport is None:
            return
        if self._unsent and (unsent := self._transport.get_write_buffer_size()) < self._unsent:
            self._unsent, self._due = unsent, now + _FETCHING_S
        if now < self._due:
            return
        if self._begun and not (self._unsent or self._last):
            self._refuse(*_TOO_SLOW)
        else:
            self.abort()

    def stop(self) -> None:
        """Wait no longer for a request that has not begun."""
        if not (self._begun or self.working or self._unsent):
            self._due = min(self._due, monotonic() + _LINGER_S)

    def abort(self) -> None:
        """Hang up."""
        self._lost = True
        self._hold(0)
        if self._transport is not None:
            self._transport.abort()

    # The request.

    def _begin(self) -> None:
        if not self._begun:
            self._begun, self._due = True, monotonic() + READING_S

    def _hold(self, held: int) -> None:
        grown, self.held = held - self.held, held
        self.worker.held += grown
        if grown > 0:
            self.worker.make_room()

    def read(self) -> None:
        """Take in what is there of a request, and go on with it if that can be done."""
        # While a thread has the request, what comes stays with h11.
        for _ in range(_EVENTS):
            if self.working or self._last or self._lost or self._answering or self._unsent or self._whole or self._over:
                break
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                self._refuse(*self._reason(error))
                return
            if isinstance(event, h11.Request):
                self._begin()
                if refusal := self._head(event):
                    self._refuse(*refusal)
                    return
            elif isinstance(event, h11.Data):
                self._body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self._whole = True
            elif isinstance(event, h11.ConnectionClosed):
                self.abort()
                return
            else:
                break
        else:
            self.worker.read_later(self)
        if not (self._last or self._lost or self._answering):
            self._hold(len(self._body) + len(self._http.trailing_data[0]))
            self._go_on()

    @property
    def _over(self) -> bool:
        return len(self._body) > self._limit

    def _go_on(self) -> None:
        if self._environ is None or self.working or self._lost:
            return
        if self._whole or self._over:
            self._work()
        elif not self._asked:
            if self._expects or int(self._environ.get("CONTENT_LENGTH") or 0) > MAX_BODY_BYTES:
                self._work()
            elif self._timer is None:
                self._timer = self.worker.loop.call_later(_ASKING_S, self._work)

    def _head(self, request: h11.Request) -> tuple[HTTPStatus, str] | None:
        """Make the environment of PEP 3333, or tell why not."""
        target, version = request.target.decode("ascii"), request.http_version.decode("ascii")
        names = [name for name, _ in request.headers]
        if len(target) > _LONGEST_LINE:
            return _TOO_LONG
        if len(names) > _MOST_HEADERS or any(len(name) + len(value) > _LONGEST_LINE for name, value in request.headers):
            return _TOO_MANY_HEADERS
        if version not in ("1.0", "1.1"):
            return _UNKNOWN_VERSION
        if b"transfer-encoding" in names and (b"content-length" in names or version == "1.0"):
            # Somebody in front of this server may have taken the other one.
            return _UNREADABLE
        if request.method == b"CONNECT":
            return _NO_TUNNEL
        path, _, query = target.partition("#")[0].partition("?")
        named = ""
        if not path.startswith("/") and path != "*":
            try:
                _, named, path, query, _ = urlsplit(target)
            except ValueError:
                named = ""
            if not named:
                return _UNREADABLE
        (host, port, *_), client = self._names
        environ: WSGIEnvironment = {
            "REQUEST_METHOD": request.method.decode("ascii"),
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(path or "/").decode("latin-1"),
            "QUERY_STRING": query,
            "RAW_URI": target,
            "SERVER_NAME": host,
            "SERVER_PORT": str(port),
            "SERVER_PROTOCOL": f"HTTP/{version}",
            "REMOTE_ADDR": client[0],
            "REMOTE_PORT": str(client[1]),
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
        }
        for name, value in request.headers:
            # An underscore could pass for the hyphen of a header that a proxy sets.
            if b"_" not in name:
                key = name.decode("ascii").upper().replace("-", "_")
                key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
                text = value.decode("latin-1")
                joint = "; " if key == "HTTP_COOKIE" else ","
                environ[key] = f"{environ[key]}{joint}{text}" if key in environ else text
        if named:
            environ["HTTP_HOST"] = named.rpartition("@")[2]
        expected = environ.pop("HTTP_EXPECT", "").lower()
        if expected not in ("", "100-continue"):
            return _NOT_EXPECTED
        self._expects, self._environ = bool(expected), environ
        return None

    def _reason(self, error: h11.RemoteProtocolError) -> tuple[HTTPStatus, str]:
        # Its words quote the request: they go nowhere.
        if error.error_status_hint == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
            line = self._http.trailing_data[0].partition(b"\n")[0]
            return _TOO_LONG if len(line) > _LONGEST_LINE else _TOO_MANY_HEADERS
        return _BY_HINT.get(HTTPStatus(error.error_status_hint), _UNREADABLE)

    # The answer.

    def _work(self) -> None:
        """Give the request to a thread; if its body is not here, to hear whether the application wants it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        environ = self._environ
        if environ is None or self.working or self._last or self._lost:
            return
        assert self._transport is not None
        self._transport.pause_reading()
        here = self._whole or (self._over and self._asked)
        environ["wsgi.input"] = io.BytesIO(self._body) if here else io.BufferedReader(_NotHere())
        environ[BEFORE_BODY] = not here
        self.working = True
        pool = self.worker.own_thread if environ["PATH_INFO"] == "/healthz" else self.worker.pool
        future = self.worker.loop.run_in_executor(pool, _run, self.worker.wsgi, environ)
        future.add_done_callback(self._worked)

    def _worked(self, future: asyncio.Future[_Answer | _BodyAwaitedError]) -> None:
        self.working = False
        try:
            answer = future.result()
        except Exception as error:
            if not self._lost:
                self._refuse(*_BROKEN, error=error)
                return
            answer = None
        if self._lost:
            if isinstance(answer, _Answer):
                answer.body.close()
            self.worker.forget(self)
            return
        assert self._transport is not None
        assert answer is not None
        if isinstance(answer, _Answer):
            self._write(answer)
            return
        self._asked, self._limit = True, answer.limit
        if self._http.they_are_waiting_for_100_continue and not self._over:
            self._transport.write(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))
        self._transport.resume_reading()
        self.read()

    def _write(self, answer: _Answer, *, last: bool = False) -> None:
        last = last or not (self._whole and self.worker.alive)
        headers = [*answer.headers, ("Date", formatdate(usegmt=True)), *([("Connection", "close")] if last else [])]
        head_only = self._environ is not None and self._environ["REQUEST_METHOD"] == "HEAD"
        assert self._transport is not None
        # What came before the client has fetched it would stay with h11, where nobody counts it.
        self._transport.pause_reading()
        self._answering, self._due = True, monotonic() + _FETCHING_S
        self._rest = io.BytesIO() if head_only else answer.body
        self._hold(answer.held)
        self._send(
            lambda: h11.Response(
                status_code=answer.status,
                headers=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
                reason=answer.reason.encode("latin-1"),
            )
        )

    def _send(self, head: Callable[[], h11.Response] | None = None) -> None:
        """Send as much of the answer as the client takes."""
        assert self._transport is not None
        piece = b"-"
        try:
            data = self._http.send(head()) if head else b""
            # After a client that has hung up, asyncio closes before it says so, and logs what is written still.
            while piece and not (self._unsent or self._lost or self._transport.is_closing()):
                piece = self._rest.read(_PIECE)
                data += self._http.send(h11.Data(data=piece) if piece else h11.EndOfMessage())
                if data:
                    self._transport.write(data)
                data = b""
        except (h11.LocalProtocolError, ValueError) as error:
            logger.error("An answer cannot be sent: it is not as HTTP has it.", exc_info=error)
            self.abort()
            return
        if not (piece or self._lost):
            self._last = self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE
            self._answered()

    def _answered(self) -> None:
        """Wait for the next request, or for the client to hang up."""
        assert self._transport is not None
        self._hold(0)
        self._rest.close()
        self._answering = False
        self.worker.rest(self)
        if self._last and self._ended:
            self.abort()
        elif self._last:
            # Who still sends must not find the door shut, or would not see the answer.
            self._due = monotonic() + _LINGER_S
            with suppress(OSError):
                self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._http.start_next_cycle()
            self._reset()
            self._due = monotonic() + self.worker.cfg.keepalive
            if self._http.trailing_data[0]:
                self._begin()
            self._transport.resume_reading()
            self.read()

    def _refuse(self, status: HTTPStatus, detail: str, *, error: BaseException | None = None) -> None:
        """Refuse a request that the application never sees."""
        name = uuid.uuid4().hex
        # RFC 9110's name; Python has that of an older one.
        title = "URI Too Long" if status == HTTPStatus.REQUEST_URI_TOO_LONG else status.phrase
        logger.log(
            logging.ERROR if error else logging.WARNING,
            "A request is refused before it is one: %s",
            title,
            exc_info=error,
            extra={"status": status.value, "request_id": name},
        )
        body = ProblemOut(type="about:blank", title=title, status=status, detail=detail, request_id=name)
        text = body.model_dump_json().encode()
        sent = {**SECURITY_HEADERS, logs.HEADER: name, "Content-Type": MEDIA_TYPE, "Content-Length": str(len(text))}
        self._write(_Answer(status, title, list(sent.items()), io.BytesIO(text)), last=True)


def _admit_no_more(listener: socket.socket) -> None:
    """Have the system ignore attempts to connect, where it can: they are repeated a second later, and refused then.

    Whoever was connected between the last look for clients and the closing of the port would be hung up on. The filter
    is of classic BPF: the flags of the TCP header, and the bit SYN among them. It holds for all processes.
    """
    if sys.platform != "linux":
        return
    load_flags, has_syn, drop, take = (0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF)
    code = ctypes.create_string_buffer(
        b"".join(struct.pack("HBBI", *each) for each in (load_flags, has_syn, drop, take))
    )
    with suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HP", 4, ctypes.addressof(code)))


def _files() -> int:
    """Return how many files this process may open; it allows itself more where it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, most = (_MOST_FILES if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard))
    wanted = min(most, _MOST_FILES)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return soft
    return max(soft, wanted)


def _run(application: WSGIApplication, environ: WSGIEnvironment) -> _Answer | _BodyAwaitedError:
    """Call the application, in a thread, and return all of its answer."""
    found: list[tuple[str, list[tuple[str, str]]]] = []
    body: list[bytes] = []

    def start_response(status: str, headers: list[tuple[str, str]], _: object = None) -> Callable[[bytes], object]:
        found[:] = [(status, headers)]
        return body.append

    try:
        pieces = application(environ, start_response)
        if isinstance(pieces, FileWrapper):
            # A file waits where it is until the client fetches it.
            return _Answer(*_head(found), pieces.file)
        try:
            body.extend(pieces)
        finally:
            if hasattr(pieces, "close"):
                pieces.close()
    except _BodyAwaitedError as awaited:
        return awaited
    status, reason, headers = _head(found)
    size = sum(map(len, body))
    if not any(name.lower() == "content-length" for name, _ in headers) and status not in (204, 304):
        headers = [*headers, ("Content-Length", str(size))]
    return _Answer(status, reason, headers, io.BytesIO(b"".join(body)), size)


def _head(found: list[tuple[str, list[tuple[str, str]]]]) -> tuple[int, str, list[tuple[str, str]]]:
    ((status, headers),) = found
    code, _, reason = status.partition(" ")
    return int(code), reason, headers
