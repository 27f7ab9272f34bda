"""Who makes a request, and whether they may: sessions and forms of people, tokens of applications."""

from __future__ import annotations

from rlhf_loop.config import Settings
from rlhf_loop.domain import User, UserRole
from rlhf_loop.web.database import Database


class Guard:
    """Answers for the current request; what it finds is kept for the request's time."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database

    def user(self) -> User | None:
        """Return who is signed in in this browser, None if nobody is."""
        raise NotImplementedError

    def signed_in(self, *roles: UserRole) -> User:
        """Return who is signed in; an admin may do what any role may.

        Raises:
            HTTPException: nobody is (a page then leads to /sign-in and back, a call by script gets 401), or somebody of
                another role (403).
        """
        raise NotImplementedError

    def bearer(self, scope: str) -> User:
        """Return whose token the request bears in `Authorization: Bearer ...`; it must have the scope.

        Raises:
            Unauthorized: no token, an unknown, expired or revoked one, or one of a user who is not active.
            Forbidden: the token does not have the scope.
            TooManyRequests: more requests than `rate_limit` allows.
        """
        raise NotImplementedError

    def form_token(self) -> str:
        """Return what a form of this session has to bring along as `form_token` (scripts: header X-Form-Token)."""
        raise NotImplementedError

    def check_form(self) -> None:
        """End the request unless it comes from a page of ours in this very session.

        Raises:
            Forbidden: the form token is missing or of another session, or another site sent the request.
        """
        raise NotImplementedError
