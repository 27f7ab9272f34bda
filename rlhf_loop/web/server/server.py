"""The server behind `rlhf-loop serve`: gunicorn, started from Python.

Processes with threads, logs in JSON, a span for each request, and a stop that loses no answer.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from flask import Flask, Response, request
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]
from gunicorn.glogging import Logger  # type: ignore[import-untyped]

from rlhf_loop.answering import AnswerService
from rlhf_loop.config import Settings
from rlhf_loop.errors import ConfigError
from rlhf_loop.ranking import without_model
from rlhf_loop.store.engine import fold_in
from rlhf_loop.utils import tracing
from rlhf_loop.web import logs
from rlhf_loop.web.app import create_app
from rlhf_loop.web.guard import Guard
from rlhf_loop.web.process import Database
from rlhf_loop.web.server.gunicorn_worker import BEFORE_BODY, LEAVING_S, Worker
from rlhf_loop.web.server.watch import Watch

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

logger = logging.getLogger(__name__)

#: Asked every few seconds by programs, and nobody wonders where their time goes.
_LEFT_OUT = ("/healthz", "/readyz", "/metrics")

#: How long a stop waits for running requests: longer than a language model may take for its drafts.
GRACE_S = 30
#: A client may keep its connection that long without a request; load balancers drop theirs sooner.
_KEEP_ALIVE_S = 75
#: A worker whose main loop says nothing for that long is replaced. Requests run in other threads.
_STUCK_S = 60
_WAITING_CONNECTIONS = 2048

#: By this the library of metrics learns where its files are; it looks when it is imported.
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_PREFIX = "rlhf-metrics-"
#: A folder may be so young that its server has not locked it yet.
_YOUNG_S = 60.0


def serve(settings: Settings, listener: socket.socket, size: Size, *, cores: int) -> NoReturn:
    """Answer requests until SIGTERM or Ctrl-C, then let the running ones finish and end the process."""
    with shared_counts() as folder:
        _Server(_share_cores(settings, cores // size.workers), listener, size, folder).run()
    sys.exit(0)


def check(settings: Settings) -> None:
    """Check before the fork that each process can start.

    Raises:
        ConfigError, MissingExtraError: the settings name it.
    """
    Guard(settings, Database(settings))
    without_model(settings)
    if settings.telemetry:
        tracing.check()


def listen(host: str, port: int) -> socket.socket:
    """Take the port, before anything is loaded; 0 takes a free one.

    Raises:
        ConfigError: it is taken, or not for this user, or the host does not belong to this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_WAITING_CONNECTIONS)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"Port {port} on {host} is taken by another process. End that one, or choose another: --port {port + 1}"
            ) from error
        advice = "Choose a port from 1024 on." if error.errno == errno.EACCES else "Check --host and --port."
        raise ConfigError(f"Cannot listen on {host}, port {port}: {error.strerror or error}. {advice}") from error


@dataclass(frozen=True, slots=True)
class Size:
    """The number of processes, and of threads in each."""

    workers: int
    threads: int


def default_workers(cores: int) -> int:
    """Return the number of processes that suits so many cores.

    Two at least, so that one can be replaced while another answers; four at most, since each takes memory of its own.
    """
    return max(2, min(4, cores // 2))


def cores() -> int:
    """Return how many cores this process may use."""
    # As in encoders.processor, whose package loads NumPy: the process that forks stays small.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def trace(app: Flask) -> None:
    """Trace the application's requests, each in a span that is named by its route and not by its address, which holds
    the question; see `tracing.begin`."""
    answer = app.wsgi_app

    def traced(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # A request that is refused before its body is here has no span: most are not, and begin once more.
        if environ.get(BEFORE_BODY) or environ.get("PATH_INFO", "").endswith(_LEFT_OUT):
            return answer(environ, start_response)
        with tracing.request_span("request", _headers(environ)):
            return answer(environ, start_response)

    app.wsgi_app = traced  # type: ignore[method-assign]
    app.after_request(_note)


def _headers(environ: WSGIEnvironment) -> dict[str, str]:
    return {
        name.removeprefix("HTTP_").replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }


def _note(response: Response) -> Response:
    notes, route = logs.begin(request), request.url_rule.rule if request.url_rule else None
    found: dict[str, str | int | tuple[str, ...]] = {
        "http.request.method": request.method,
        "http.response.status_code": response.status_code,
        "rlhf.request_id": notes.id,
    }
    if route is not None:
        found["http.route"] = route
    if notes.answer is not None:
        answer = notes.answer
        found |= {
            "rlhf.policy": answer.policy,
            "rlhf.model_version": answer.model_version or "none",
            "rlhf.candidates": len(answer.ranked),
            "rlhf.degraded": tuple(answer.degraded),
        }
    tracing.note(
        found, name=f"{request.method} {route}" if route else request.method, failed=response.status_code >= 500
    )
    return response


def _share_cores(settings: Settings, cores: int) -> Settings:
    # Each process of several would take all cores for itself, and they would wait for each other.
    return settings if settings.encoder_threads else replace(settings, encoder_threads=max(1, cores))


@contextmanager
def shared_counts() -> Iterator[Path]:
    """Make the folder in which the processes that are forked in this block count together, and remove it at the end.

    The lock on it tells other servers that it is in use, and systemd, which clears folders of temporary files.
    """
    parent = Path(tempfile.gettempdir())
    _remove_abandoned(parent)
    folder, owner = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent)), os.getpid()
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(folder)
    try:
        yield folder
    finally:
        # A process that was forked inside the block leaves it, too.
        if os.getpid() == owner:
            os.close(lock)
            shutil.rmtree(folder, ignore_errors=True)
            os.environ.pop(VARIABLE)
            if before is not None:
                os.environ[VARIABLE] = before


def forget(pid: int) -> None:
    """Take a process that has ended out of what is true now, such as how many there are; what it counted stays."""
    # Here, as whoever calls this forks, and stays small until somebody has died.
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of servers that were killed."""
    for folder in parent.glob(f"{_PREFIX}*"):
        # Of another user, or removed by another server that starts now.
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > _YOUNG_S and _is_free(folder):
                shutil.rmtree(folder, ignore_errors=True)
                logger.info("Removed %s, which a server that was killed has left.", folder)


def _is_free(folder: Path) -> bool:
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


class _Server(BaseApplication):  # type: ignore[misc]
    """The application as gunicorn wants it. Each worker makes its own after the fork: no thread survives one."""

    def __init__(self, settings: Settings, listener: socket.socket, size: Size, folder: Path) -> None:
        self._settings, self._size, self._folder = settings, size, folder
        self._bind = f"fd://{listener.detach()}"
        self._service: AnswerService | None = None
        self._watch: Watch | None = None
        super().__init__()

    def load_config(self) -> None:
        options: dict[str, Any] = {
            "bind": self._bind,
            "workers": self._size.workers,
            "threads": self._size.threads,
            "worker_class": Worker,
            "logger_class": _Log,
            "graceful_timeout": GRACE_S + LEAVING_S,
            "keepalive": _KEEP_ALIVE_S,
            "timeout": _STUCK_S,
            "backlog": _WAITING_CONNECTIONS,
            # A second way to command the server, which nobody asked for.
            "control_socket_disable": True,
            "when_ready": _end_with_the_terminal,
            "worker_exit": self._close,
            "child_exit": lambda _, worker: forget(worker.pid),
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        # Here, after the fork: it has to be told before where the processes count together.
        from rlhf_loop.web.prometheus import Instruments

        service, counts = AnswerService(self._settings), Instruments()
        self._service = service
        self._watch = Watch(self._settings, Database(self._settings), then=lambda: counts.serves(service.serving()))
        self._watch.start()
        app = create_app(
            self._settings, service=service, warm_up=True, counts=counts, limits=self._folder / "requests.sqlite"
        )
        if self._settings.telemetry:
            tracing.begin()
            trace(app)
        return app

    def _close(self, server: object, worker: Any) -> None:
        if self._watch is not None:
            self._watch.stop()
        if self._service is not None:
            self._service.close()
        tracing.end()
        if worker.pid == os.getpid():
            fold_in()
            _leave()


def _leave() -> NoReturn:
    """End this process with the exit code that it is about to end with, and without tidying up after threads.

    One that still loads is often in the middle of ONNX Runtime. If Python ended beneath it, C++ would end the process
    as if by a fault, with a line of its own on standard error.
    """
    end = sys.exc_info()[1]
    code = end.code if isinstance(end, SystemExit) and isinstance(end.code, int) else 0
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)


def _end_with_the_terminal(_: object) -> None:
    # Gunicorn takes SIGHUP for "start anew", and would live on, and keep the port, where a terminal is closed.
    if sys.stdin is not None and sys.stdin.isatty():
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))


class _Log(Logger):  # type: ignore[misc]
    """Gunicorn's messages in the same lines as all others; requests are logged by the application."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True

    @property
    def access_log_enabled(self) -> bool:
        return False
