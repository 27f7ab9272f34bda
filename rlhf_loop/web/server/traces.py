"""A span for each request: named by its route, and not by its address, which holds the question."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask, Response, request

from rlhf_loop.utils import tracing
from rlhf_loop.web import logs

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

#: Asked every few seconds by programs, and nobody wonders where their time goes.
_LEFT_OUT = ("/healthz", "/readyz", "/metrics")


def trace(app: Flask) -> None:
    """Have the application's requests traced; see `tracing.begin`."""
    answer = app.wsgi_app

    def traced(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO", "").endswith(_LEFT_OUT):
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
