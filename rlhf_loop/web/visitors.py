"""Who rates, as long as nobody signs in: a random name in a cookie, and nobody who was sent here by another site."""

from __future__ import annotations

import re
import secrets
from urllib.parse import urlsplit

from flask import Response, request, url_for
from werkzeug.exceptions import Forbidden

COOKIE = "rlhf_visitor"

_NAME = re.compile(r"[A-Za-z0-9_-]{16,64}")
_YEAR_S = 365 * 24 * 3600


def visitor() -> str:
    """Return the name in the visitor's cookie, or a new one."""
    given = request.cookies.get(COOKIE, "")
    return given if _NAME.fullmatch(given) else secrets.token_urlsafe(16)


def remember(response: Response, name: str) -> Response:
    """Have the browser bring the name along, so that a second rating replaces the first one."""
    response.set_cookie(
        COOKIE, name, max_age=_YEAR_S, path=home_path(), httponly=True, samesite="Lax", secure=request.is_secure
    )
    return response


def home_path() -> str:
    """Return the path below which all addresses of the service lie: what its cookies are for."""
    return url_for(".data").removesuffix("data") or "/"


def refuse_other_sites() -> None:
    """End the request if a page of another site makes it: it would act in the name of whoever looks at that page.

    Browsers say so in Sec-Fetch-Site, older ones and those on plain HTTP in Origin; what says neither is no browser.

    Raises:
        Forbidden: it comes from elsewhere.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    foreign = site not in ("same-origin", "none") if site else origin and _host(origin) != request.host
    if foreign:
        raise Forbidden(
            f"This request comes from a page of another site ({origin or site}). Do it on the page of this one."
        )


def _host(origin: str) -> str:
    # Only hosts are compared: behind a proxy that ends TLS, this process takes https for http.
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
