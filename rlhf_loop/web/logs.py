"""Logs in JSON: one line for each message, with the id of its request.

No line holds the text of a question: it may be personal.
"""

from __future__ import annotations

import logging
import re
import sys
import uuid
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TextIO

from flask import Request, Response, g
from pythonjsonlogger.json import JsonFormatter

from rlhf_loop.domain import Answer, ReviewerRole
from rlhf_loop.utils import tracing

logger = logging.getLogger(__name__)

HEADER = "X-Request-ID"

#: Of an id that a proxy or a client brings along. Others are replaced: they would end up in logs and headers.
_SANE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
#: What follows is the secret part of a one-time link, however the address was mistyped or meant for another method.
_LINK = re.compile(r"(?<=/welcome)(?:/|%2f|\\).*", re.IGNORECASE | re.DOTALL)
_LINK_IN_TEXT = re.compile(r"(?<=/welcome)(?:/|%2f|\\)[^\s\"'<>]+", re.IGNORECASE)
_current: ContextVar[str | None] = ContextVar("rlhf_request_id", default=None)


class _Lines(JsonFormatter):
    """Masks links in what others log, too: gunicorn names the address of a request that went wrong in its own hands."""

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        return {k: _LINK_IN_TEXT.sub("/...", v) if isinstance(v, str) else v for k, v in log_data.items()}


@dataclass(slots=True)
class RequestNotes:
    """Facts about one request, for its line in the log and for the metrics."""

    id: str
    started: float
    model_version: str | None = None
    degraded: Sequence[str] = field(default=())
    #: Counted where the request succeeds.
    answer: Answer | None = None
    ratings: list[ReviewerRole] = field(default_factory=list)
    #: A ranking that was to be recorded: its door, and its id; None if there was no room for it.
    recorded: tuple[str, str | None] | None = None
    logged: bool = False
    counted: bool = False


def begin(request: Request) -> RequestNotes:
    """Give the request its id, that of its header if that is a usable one; only once a request."""
    found: RequestNotes | None = g.get("rlhf_notes")
    if found is None:
        given = request.headers.get(HEADER, "")
        found = RequestNotes(given if _SANE.fullmatch(given) else uuid.uuid4().hex, perf_counter())
        g.rlhf_notes = found
        _current.set(found.id)
    return found


def end(request: Request, response: Response) -> Response:
    """Log the request's line, and tell the client its id; only once a request."""
    notes = begin(request)
    response.headers[HEADER] = notes.id
    if not notes.logged:
        notes.logged = True
        logger.log(
            _level(request, response),
            "%s %s %d",
            request.method,
            path(request),
            response.status_code,
            extra={
                "method": request.method,
                "path": path(request),
                "status": response.status_code,
                "duration_ms": round((perf_counter() - notes.started) * 1e3, 1),
                "model_version": notes.model_version,
                "degraded": list(notes.degraded),
            },
        )
    return response


def path(request: Request) -> str:
    """Return the request's path as it may be logged and shown: without the secret part of a one-time link."""
    return _LINK.sub("/...", request.path)


def forget() -> None:
    """Leave the request: the thread's next lines belong to another one, or to none."""
    _current.set(None)


def configure(stream: TextIO | None = None) -> None:
    """Make JSON of everything that this process logs, warnings included; replaces what was configured before."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.addFilter(_add_ids)
    handler.setFormatter(
        _Lines(
            ["levelname", "name", "process", "request_id", "message"],
            rename_fields={"levelname": "level", "name": "logger", "process": "pid"},
            timestamp="time",
            json_ensure_ascii=False,
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    # Each step of a new database; each request to Wikipedia, with its address, which holds the words of the question.
    for chatty in ("alembic", "httpx", "httpx2", "httpcore", "httpcore2"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _add_ids(record: logging.LogRecord) -> bool:
    if not hasattr(record, "request_id"):
        record.request_id = _current.get()
    if found := tracing.trace_id():
        record.trace_id = found
    return True


def _level(request: Request, response: Response) -> int:
    if response.status_code >= 500 and not request.path.endswith("/readyz"):
        return logging.ERROR
    # Somebody asks every few seconds, and mostly all is well.
    return logging.DEBUG if request.path.endswith(("/healthz", "/readyz")) else logging.INFO
