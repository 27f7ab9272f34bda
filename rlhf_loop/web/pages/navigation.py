"""What the header of each page leads to: for everybody the question, for who is signed in what they may do."""

from __future__ import annotations

from dataclasses import dataclass

from flask import current_app, request, url_for

from rlhf_loop.domain import User, UserRole
from rlhf_loop.web.guard import Guard

_FOR_RATERS = {"review": "Review", "compare": "Compare", "agreement": "Agreement"}
_FOR_ADMINS = {"dashboard": "Dashboard", "corrections": "Corrections", "flagged": "Flagged", "admin": "Admin"}


@dataclass(frozen=True, slots=True)
class Link:
    """A place to go to; `current` says that this is it, or that this page lies below it."""

    label: str
    address: str
    current: bool


@dataclass(frozen=True, slots=True)
class Navigation:
    """The header of a page. Nobody is signed in where `user` is None, and then there is no form to sign out."""

    links: tuple[Link, ...]
    user: User | None
    form_token: str


def navigation(guard: Guard) -> Navigation:
    """Return the header for the current request. It asks the database only where the browser has a session."""
    user = guard.user()
    if user is None:
        return Navigation((), None, "")
    shown = {"data_html": "Ask", **_FOR_RATERS, **(_FOR_ADMINS if user.role == UserRole.ADMIN else {})}
    links = tuple(_link(endpoint, label) for endpoint, label in shown.items() if _exists(endpoint))
    return Navigation(links, user, guard.form_token())


def _link(endpoint: str, label: str) -> Link:
    here = (request.endpoint or "").removeprefix(f"{request.blueprint}.")
    # The endpoints of the pages below one begin with its name, as in admin_tokens and data_html_post.
    return Link(label, url_for(f".{endpoint}"), current=here == endpoint or here.startswith(f"{endpoint}_"))


def _exists(endpoint: str) -> bool:
    return f"{request.blueprint}.{endpoint}" in current_app.view_functions
