"""Errors of HTTP: as problem+json (RFC 9457), as a page, or in a format of the view's own.

Each says what happened, the value seen, what to do next, and the request's id.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar

from flask import Response, current_app, render_template, request
from pydantic import BaseModel
from werkzeug.exceptions import HTTPException, NotFound, UnprocessableEntity

from rlhf_loop.utils.translation import Message
from rlhf_loop.web import logs
from rlhf_loop.web.localization import said_there
from rlhf_loop.web.schemas import ProblemOut

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

#: In place of werkzeug's own words, which help nobody.
_DETAILS = {
    404: Message("There is nothing at {path}. The list of addresses is at /docs."),
    405: Message("{method} is not possible at {path}. Allowed: {allowed}."),
    413: Message("The request is larger than {limit:,} bytes. Send less: a question has at most 4,000 characters."),
    415: Message("The body is {type}. Send JSON, with the header Content-Type: application/json."),
}
#: To people at a browser, who seek no address for a program.
_NO_PAGE = Message("There is nothing at {path}. Check the address, or go on from the links on this page.")
#: The titles of pages that say an error: HTTP's own phrases, here for the catalogues.
TITLES = (
    *(Message("Bad Request"), Message("Unauthorized"), Message("Forbidden"), Message("Not Found")),
    *(Message("Method Not Allowed"), Message("Request Timeout"), Message("Conflict")),
    *(Message("Request Entity Too Large"), Message("Unsupported Media Type"), Message("Unprocessable Entity")),
    *(Message("Too Many Requests"), Message("Internal Server Error"), Message("Service Unavailable")),
)


def as_problem(error: HTTPException) -> Response:
    """Return the problem that an HTTP error is, with the headers that belong to it; a redirect stays one."""
    status = error.code or 500

    def body() -> ProblemOut:
        return ProblemOut(
            type="about:blank",
            title=HTTPStatus(status).phrase,
            status=status,
            detail=said_there(detail(error)),
            request_id=logs.begin(request).id,
        )

    return rendered(error, body, status=status, content_type=MEDIA_TYPE)


def rendered(
    error: HTTPException, body: Callable[[], BaseModel], *, status: int, content_type: str = "application/json"
) -> Response:
    """Return an error with this body; its own response bears the headers: Allow, Retry-After, WWW-Authenticate.

    A redirect is returned as it is.
    """
    response = current_app.make_response(error)
    if error.code is not None and error.code >= 400 and error.response is None:
        response.status_code, response.data = status, body().model_dump_json()
        response.content_type = content_type
    return response


def detail(error: HTTPException, *, page: bool = False) -> str:
    """Describe an HTTP error in words, to a program or on a `page`."""
    own = getattr(type(error), "description", None)
    if error.code in _DETAILS and error.description in (None, own):
        return Message(
            _NO_PAGE if page and error.code == 404 else _DETAILS[error.code],
            path=logs.path(request),
            method=request.method,
            allowed=", ".join(sorted(getattr(error, "valid_methods", None) or ())),
            limit=request.max_content_length or 0,
            type=repr(request.mimetype) if request.mimetype else "of no named type",
        )
    return error.description or Message("Something is wrong with the request.")


@contextmanager
def refusals() -> Iterator[None]:
    """Translate what a service refuses.

    Raises:
        UnprocessableEntity, NotFound: the service raised ValueError or LookupError.
    """
    try:
        yield
    except ValueError as error:
        raise UnprocessableEntity(str(error)) from error
    except LookupError as error:
        raise NotFound(
            str(error.args[0]) if error.args else Message("It is not there any more. Reload the page.")
        ) from error


def unexpected(error: Exception) -> str:
    """Log an unexpected error with its traceback, and say where to look."""
    logger.error("%s %s failed: %s", request.method, logs.path(request), type(error).__name__, exc_info=error)
    return Message(
        "Something unexpected happened here. The log says what, under the request id {id}. "
        "Try again; if it stays, tell whoever runs this service.",
        id=logs.begin(request).id,
    )


def as_page(error: HTTPException) -> Response:
    """Return an error as a page."""
    page = render_template(
        "rlhf_loop/error.html",
        title=HTTPStatus(error.code or 500).phrase,
        detail=detail(error, page=True),
        request_id=logs.begin(request).id,
    )
    return Response(page, status=error.code or 500)


@dataclass(frozen=True, slots=True)
class ErrorFormat:
    """The format of a view's errors; `html` if its clients are browsers, which can be led to the sign-in."""

    render: Callable[[HTTPException], Response]
    html: bool = False


PROBLEM = ErrorFormat(as_problem)
PAGE = ErrorFormat(as_page, html=True)
_ATTRIBUTE = "error_format"
_View = TypeVar("_View", bound=Callable[..., object])


def errors_as(format: ErrorFormat) -> Callable[[_View], _View]:
    """Mark a view whose errors are in this format; without a mark they are problem+json."""

    def mark(view: _View) -> _View:
        setattr(view, _ATTRIBUTE, format)
        return view

    return mark


def error_format(view: Callable[..., object] | None) -> ErrorFormat:
    """Return the format of a view's errors."""
    found: ErrorFormat = getattr(view, _ATTRIBUTE, PROBLEM)
    return found


html_errors = errors_as(PAGE)
