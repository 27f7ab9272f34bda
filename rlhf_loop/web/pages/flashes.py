"""What a page says once, after a form has led to it: also a secret that is nowhere else.

It travels in a signed cookie of the very session, for a minute; a reload neither repeats the form nor shows it again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from flask import Response, after_this_request, request
from itsdangerous import BadData, URLSafeTimedSerializer

from rlhf_loop.web.guard import Guard
from rlhf_loop.web.visitors import home_path

COOKIE = "rlhf_notice"
_LASTS_S = 60


@dataclass(frozen=True, slots=True)
class Flash:
    """What has happened, and where there is one the secret that came of it, with the name of its field."""

    text: str
    secret: str = ""
    label: str = ""


def leave(guard: Guard, response: Response, flash: Flash) -> Response:
    """Have the next page say it."""
    response.set_cookie(
        COOKIE,
        str(_serializer(guard).dumps(asdict(flash))),
        max_age=_LASTS_S,
        path=home_path(),
        httponly=True,
        samesite="Lax",
        secure=request.is_secure,
    )
    return response


def take(guard: Guard) -> Flash | None:
    """Return what this page has to say, and have the browser forget it."""
    given = request.cookies.get(COOKIE)
    if not given:
        return None
    after_this_request(_forget)
    try:
        return Flash(**_serializer(guard).loads(given, max_age=_LASTS_S))
    except (BadData, TypeError):
        return None


def _forget(response: Response) -> Response:
    response.delete_cookie(COOKIE, path=home_path(), httponly=True, samesite="Lax", secure=request.is_secure)
    return response


def _serializer(guard: Guard) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(guard.signing_key("flashes"), salt=guard.session_secret())
