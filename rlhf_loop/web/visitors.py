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
    path = url_for(".data").removesuffix("data") or "/"
    response.set_cookie(
        COOKIE, name, max_age=_YEAR_S, path=path, httponly=True, samesite="Lax", secure=request.is_secure
    )
    return response


def refuse_other_sites() -> None:
    """End the request if a page of another site makes it: it would rate in the name of whoever looks at that page.

    Browsers say so in Sec-Fetch-Site, older ones and those on plain HTTP in Origin; what says neither is no browser.

    Raises:
        Forbidden: it comes from elsewhere.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    # Only hosts are compared: behind a proxy that ends TLS, this process takes https for http.
    foreign = site not in ("same-origin", "none") if site else origin and urlsplit(origin).netloc != request.host
    if foreign:
        raise Forbidden(
            f"This rating comes from a page of another site ({origin or site}). Rate on the page that shows the answer."
        )
