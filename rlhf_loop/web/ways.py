"""Where a browser is led after somebody has signed in: only to places of this very host."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import request

_LONGEST = 2_000


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
    return local_path(sent_from.path) if sent_from.netloc == request.host else None
