"""Names of the host, pages of other sites, cookies, and ways back, which lead only to places of this very host."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from flask import Response, request, url_for
from werkzeug.exceptions import BadRequest, Forbidden

from rlhf_loop.errors import ConfigError
from rlhf_loop.utils.translation import Message

COOKIE = "rlhf_visitor"
YEAR_S = 365 * 24 * 3600
_NAME = re.compile(r"[A-Za-z0-9_-]{16,64}")
_LONGEST = 2_000
_HOST = re.compile(r"(?:([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)|\[([0-9A-Fa-f:.]+)\])(:[0-9]{1,5})?")
_LONGEST_HOST = 100
#: These say only that the service is there.
_PROBES = (".healthz", ".readyz", ".health")
METRICS = ".metrics"


def visitor() -> str:
    """Return the name in the visitor's cookie, or a new one."""
    given = request.cookies.get(COOKIE, "")
    return given if _NAME.fullmatch(given) else secrets.token_urlsafe(16)


def remember(response: Response, name: str) -> Response:
    """Have the browser bring the name along, so that a second rating replaces the first one."""
    return set_cookie(response, COOKIE, name, max_age=YEAR_S)


def set_cookie(response: Response, name: str, value: str, *, max_age: int | None = None) -> Response:
    """Have the browser keep a cookie that no script reads and that other sites' forms do not bring along."""
    response.set_cookie(
        name, value, max_age=max_age, path=home_path(), httponly=True, samesite="Lax", secure=request.is_secure
    )
    return response


def forget_cookie(response: Response, name: str) -> Response:
    """Have the browser forget a cookie that `set_cookie` has set."""
    response.delete_cookie(name, path=home_path(), httponly=True, samesite="Lax", secure=request.is_secure)
    return response


def home_path() -> str:
    """Return the path below which all addresses of the service lie: what its cookies are for."""
    return url_for(".data").removesuffix("data") or "/"


def checked_hosts(hosts: Iterable[str]) -> tuple[str, ...]:
    """Return the names by which the service may be called.

    Raises:
        ConfigError: one is not a valid name or address.
    """
    found = tuple(host.strip().lower() for host in hosts)
    for host in found:
        named = _HOST.fullmatch(_bracketed(host.removeprefix("*.")))
        if host != "*" and (named is None or named[3]):
            raise ConfigError(
                f"RLHF_HOSTS: {host!r} is not a valid name or address of a host. Give names as in an address, without "
                "https:// and without a port: rlhf.example.org, *.example.org, 192.0.2.7, [::1]; or * for any."
            )
    return found


def refuse_other_hosts(hosts: Sequence[str]) -> None:
    """End the request if it is for another host: a page whose name leads here, or a link that would lead elsewhere.

    Probes go on, which call by the address of a container and learn nothing: health checks under any name, and metrics
    under any address, which no page can be opened by that was called by a name.

    Raises:
        BadRequest: none of `hosts` is meant, of which an empty list means any.
    """
    endpoint = request.endpoint or ""
    if not hosts or "*" in hosts or endpoint.endswith(_PROBES):
        return
    given = request.environ.get("HTTP_HOST", "")
    name = _host_name(given)
    if name is None or not (
        any(_matches(name, host) for host in hosts) or (endpoint.endswith(METRICS) and _is_address(name))
    ):
        raise BadRequest(
            f"This service is not called {given[:_LONGEST_HOST]!r}. Use the address that its operator gave you; the "
            "operator names further ones in RLHF_HOSTS."
        )


def _host_name(host: str) -> str | None:
    """Return the name or address without its port and brackets, None if it is not a valid one."""
    found = _HOST.fullmatch(host)
    return (found[1] or found[2]).lower() if found else None


def _matches(name: str, host: str) -> bool:
    return name.endswith(host[1:]) if host.startswith("*.") else name == host.strip("[]")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and "[" not in host and _is_address(host) else host


def _is_address(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def refuse_other_sites() -> None:
    """End the request if a page of another site makes it: it would act in the name of whoever looks at that page.

    Browsers say so in Sec-Fetch-Site, over TLS or to loopback; older ones, and all on plain HTTP, in Origin where they
    post. Elsewhere they say it in Referer, which a page can suppress.

    Raises:
        Forbidden: it comes from elsewhere.
    """
    if other := other_site():
        raise Forbidden(
            Message(
                "This request comes from a page of another site ({other}). Do it on the page of this one.", other=other
            )
        )


def other_site() -> str:
    """Return the other site whose page makes the request, as far as the browser names it; empty if none does."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    # Browsers on plain HTTP send neither where a picture is loaded or a link is followed.
    named = origin or (request.referrer or "" if request.method in ("GET", "HEAD") else "")
    foreign = site not in ("same-origin", "none") if site else named and _host(named) != request.host
    return (_host(named) or named or site or "") if foreign else ""


def local_path(address: str) -> str | None:
    """Return the address if it surely leads to a place on this very host, else None."""
    # What browsers leave out (line breaks, tabs) or take for a slash could make another host of it.
    odd = any(character <= " " or character in "\\\x7f" for character in address)
    if odd or len(address) > _LONGEST or not address.startswith("/") or address.startswith("//"):
        return None
    try:
        parts = urlsplit(address)
    except ValueError:
        return None
    return None if parts.scheme or parts.netloc else address


def way_back() -> str | None:
    """Return the page to come back to: this one, or the one from which a form was sent here."""
    if request.method in ("GET", "HEAD"):
        return local_path(request.script_root + request.full_path.removesuffix("?"))
    try:
        sent_from = urlsplit(request.referrer or "")
    except ValueError:
        return None
    return local_path(sent_from._replace(scheme="", netloc="").geturl()) if sent_from.netloc == request.host else None


def _host(origin: str) -> str:
    # Only hosts are compared: behind a proxy that ends TLS, this process takes https for http.
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def own_cookie(name: str) -> str:
    """Return the name of a cookie that, by TLS, only this very host can have set."""
    # So named, a browser takes it from this very host by TLS only, and not from one beside it.
    return f"__Host-{name}" if request.is_secure and home_path() == "/" else name
