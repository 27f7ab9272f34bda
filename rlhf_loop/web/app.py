"""The routes as a blueprint for anybody's Flask application, and as an application of their own."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flask import Blueprint, Flask, Response, current_app, redirect, request, url_for
from werkzeug import Response as BaseResponse
from werkzeug.exceptions import HTTPException, InternalServerError, NotFound, ServiceUnavailable
from werkzeug.middleware.proxy_fix import ProxyFix

from rlhf_loop.answering import AnswerService
from rlhf_loop.config import Settings
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.errors import DatabaseError
from rlhf_loop.reviewing import Scoring
from rlhf_loop.sources.source import Source
from rlhf_loop.utils.markdown import bounded_prose
from rlhf_loop.utils.translation import Message
from rlhf_loop.version import __version__
from rlhf_loop.web import logs
from rlhf_loop.web.api import answers, chat, discovery, feedback, openapi, rerank, v1
from rlhf_loop.web.api.discovery import canonical_path
from rlhf_loop.web.api.openapi import Api
from rlhf_loop.web.guard import Guard
from rlhf_loop.web.localization import languages, translator
from rlhf_loop.web.origins import checked_hosts, refuse_other_hosts
from rlhf_loop.web.pages import admin, authenticator, dashboard, people, provider, review
from rlhf_loop.web.pages import answers as pages
from rlhf_loop.web.pages.people import navigation, shown_names, waits
from rlhf_loop.web.problems import as_page, as_problem, error_format, unexpected
from rlhf_loop.web.process import Database, WarmUp

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from rlhf_loop.web.prometheus import Instruments

logger = logging.getLogger(__name__)

_RETRY_AFTER_S = 30
#: The longest question takes 48,000 bytes where each of its characters is an escaped pair of surrogates.
MAX_BODY_BYTES = 64 * 1024

#: The errors of these routes.
_CODES = (400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 500, 502, 503, 504)
#: Pages, images and addresses only from here, no script inside a page, and no other site around it.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_FEATURES = (
    *("accelerometer", "autoplay", "browsing-topics", "camera", "display-capture", "encrypted-media", "fullscreen"),
    *("geolocation", "gyroscope", "hid", "local-fonts", "magnetometer", "microphone", "midi", "payment"),
    *("picture-in-picture", "publickey-credentials-get", "screen-wake-lock", "serial", "usb", "xr-spatial-tracking"),
)
SECURITY_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    # No page here looks or listens, and none is a part of another site's.
    "Permissions-Policy": ", ".join(f"{feature}=()" for feature in _FEATURES),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def blueprint(
    settings: Settings, *, sources: Sequence[Source] | None = None, service: AnswerService | None = None
) -> Blueprint:
    """Return the routes of the service, for `app.register_blueprint`; `url_prefix` may put them under a path.

    Nothing is loaded until the first request. `sources` are asked in place of those that the settings name; `service`
    is one that you have made yourself.
    """
    from rlhf_loop.web.prometheus import Instruments

    service = service or AnswerService(settings, sources=sources)
    return _routes(settings, service, WarmUp(service), Instruments(), None)


def create_app(
    settings: Settings,
    *,
    sources: Sequence[Source] | None = None,
    service: AnswerService | None = None,
    warm_up: bool = False,
    counts: Instruments | None = None,
    limits: Path | None = None,
) -> Flask:
    """Return an application with these routes and nothing else; `warm_up` begins to load at once, in a thread.

    Not for a process that will fork: no thread survives that. `counts` are instruments that somebody else reads, too;
    `limits` is a file by which several processes count requests together for the rate limit.
    """
    from rlhf_loop.web.prometheus import Instruments

    service, counts = service or AnswerService(settings, sources=sources), counts or Instruments()
    warmup = WarmUp(service)
    app = Flask("rlhf_loop.web", static_folder=None, template_folder=None)
    if settings.proxies:
        # Only what so many proxies of our own have added; the rest is what the client claims.
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            app.wsgi_app, x_for=settings.proxies, x_proto=settings.proxies, x_host=0, x_port=0, x_prefix=0
        )
    app.wsgi_app = _AnySpelling(app.wsgi_app)  # type: ignore[method-assign]
    app.register_blueprint(_routes(settings, service, warmup, counts, limits))
    # Once more for the whole application: what is not found belongs to no blueprint.
    app.before_request(_begin)
    hosts = checked_hosts(settings.hosts)
    app.before_request(lambda: refuse_other_hosts(hosts))
    app.after_request(_finish)
    app.after_request(lambda response: counts.count(request, response))
    app.teardown_request(_forget)
    app.register_error_handler(HTTPException, as_problem)
    app.register_error_handler(NotFound, _not_found)

    @app.get("/")
    def home() -> BaseResponse:
        return redirect(url_for("rlhf_loop.data_html"))

    if warm_up:
        warmup.start()
    return app


class _AnySpelling:
    """Middleware that leads whatever address a client makes of its base URL to the route that is meant."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["PATH_INFO"] = canonical_path(environ.get("PATH_INFO", ""))
        return self._application(environ, start_response)


def _routes(
    settings: Settings, service: AnswerService, warmup: WarmUp, counts: Instruments, limits: Path | None
) -> Blueprint:
    # Here, as the library has to be told first where the processes of a server count together.
    from rlhf_loop.web import prometheus

    # The templates lie in a folder of their own, so that an application can put its own in their place.
    web = Blueprint(
        "rlhf_loop", __name__, template_folder="templates", static_folder="static", static_url_path="/data-html/static"
    )
    web.before_request(_begin)
    web.after_request(_finish)
    web.after_request(lambda response: counts.count(request, response))
    web.teardown_request(_forget)
    web.register_error_handler(HTTPException, _http_error)
    for code in _CODES:
        # By its code as well: otherwise Flask would prefer a handler that the application has for it.
        web.register_error_handler(code, _http_error)
    database = Database(settings)
    web.register_error_handler(DatabaseError, lambda error: _no_database(error, database))
    web.register_error_handler(Exception, _unexpected)
    guard, api = Guard(settings, database, counts=limits), Api(web)
    answers.add_routes(api.tagged("Answers"), service, warmup, guard)
    pages.add_routes(api.tagged("Pages"), settings, service, guard)
    web.before_request(lambda: refuse_other_hosts(guard.hosts))
    web.before_request(guard.limit)
    web.context_processor(lambda: _shared(guard, database))
    people.add_routes(web, settings, database, guard)
    authenticator.add_routes(web, database, guard)
    if guard.provider is not None:
        provider.add_routes(web, database, guard, guard.provider)
    admin.add_routes(web, settings, database, guard)
    review.add_routes(web, settings, database, guard, Scoring(settings, ranker=service.ranker))
    dashboard.add_routes(web, settings, database, guard, lambda: _encoder(service))
    v1.add_routes(api.tagged("Applications"), database, guard)
    feedback.add_routes(api.tagged("Applications"), database, guard, service)
    rerank.add_routes(api.tagged("Ranking"), settings, service, guard)
    discovery.add_routes(api.tagged("Ranking"), settings, service, guard)
    chat.add_routes(api.tagged("Ranking"), settings, service, guard)
    prometheus.add_routes(api, settings, service, database, guard, counts)
    openapi.add_routes(api)
    api.register()
    return web


def _shared(guard: Guard, database: Database) -> dict[str, object]:
    """Return what all templates use."""
    speaks = translator()
    return {
        "navigation": navigation(guard),
        "waits": waits(database),
        "person": shown_names(database),
        "version": __version__,
        "prose": bounded_prose(),
        "languages": languages(),
        "script_words": speaks.script,
        **speaks.template(),
    }


def _encoder(service: AnswerService) -> TextEncoder | None:
    ranker = service.ranker()
    return ranker.encoder if ranker else None


def _begin() -> None:
    logs.begin(request)
    request.max_content_length = MAX_BODY_BYTES
    request.max_form_memory_size = MAX_BODY_BYTES


def _finish(response: Response) -> Response:
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    if response.mimetype == "text/html":
        # Not by the cookie of a chosen language: a browser could not go back to what it had before another cookie came.
        response.vary.add("Accept-Language")
    # An answer is for who asked. "private" and not "no-store": a browser could not go back to it.
    if request.endpoint is None or not request.endpoint.endswith(".static"):
        response.headers.setdefault("Cache-Control", "private, no-cache")
    return logs.end(request, response)


def _forget(_: BaseException | None) -> None:
    logs.forget()


def _http_error(error: HTTPException) -> Response:
    return error_format(current_app.view_functions.get(request.endpoint or "")).render(error)


def _not_found(error: NotFound) -> Response:
    """Return what is said of an address at which there is nothing: to browsers as a page."""
    if "text/html" not in request.accept_mimetypes.values():
        return as_problem(error)
    # As if it were a page of the blueprint, which has its header and what its links begin with, and no place in it.
    request.url_rule = next(current_app.url_map.iter_rules("rlhf_loop.docs"))
    try:
        return as_page(error)
    finally:
        request.url_rule = None


def _no_database(error: DatabaseError, database: Database) -> Response:
    logger.error("%s", error)
    database.doubt()
    return _http_error(
        ServiceUnavailable(
            Message(
                "The database does not answer, so nothing can be read or stored now. Try again in a minute; what was "
                "sent is stored once, however often it is sent (by a program with the same Idempotency-Key)."
            ),
            retry_after=_RETRY_AFTER_S,
        )
    )


def _unexpected(error: Exception) -> Response:
    return _http_error(InternalServerError(unexpected(error)))
