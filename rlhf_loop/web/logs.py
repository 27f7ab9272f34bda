"""The log's line for each request, with its id.

No line holds the text of a question: it may be personal.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

from flask import Request, Response, g

from rlhf_loop.domain import Answer, ReviewerRole
from rlhf_loop.utils.log_format import request_id

logger = logging.getLogger(__name__)

HEADER = "X-Request-ID"

#: Of an id that a proxy or a client brings along. Others are replaced: they would end up in logs and headers.
_SANE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
#: What follows is the secret part of a one-time link, however the address was mistyped or meant for another method.
_LINK = re.compile(r"(?<=/welcome)(?:/|%2f|\\).*", re.IGNORECASE | re.DOTALL)


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
        request_id.set(found.id)
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
    request_id.set(None)


def _level(request: Request, response: Response) -> int:
    if response.status_code >= 500 and not request.path.endswith("/readyz"):
        return logging.ERROR
    # Somebody asks every few seconds, and mostly all is well.
    return logging.DEBUG if request.path.endswith(("/healthz", "/readyz")) else logging.INFO
