"""Signing in by name and password."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import update
from sqlalchemy.engine import Engine

from rlhf_loop.accounts import passwords, sessions, throttle, users
from rlhf_loop.domain import User, UserRole
from rlhf_loop.errors import AccountError
from rlhf_loop.store import audit
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.tables import ANONYMOUS
from rlhf_loop.store.tables import User as Users

#: For whatever is wrong: which of both, would tell which names there are.
_WRONG = "The name or the password is wrong. Look at both and try again."
#: How all names that cannot be one are counted.
_NO_NAME = "?"


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who has signed in, with the secret that their browser has to keep."""

    user: User
    secret: str


def sign_in(
    engine: Engine, name: str, password: str, *, address: str, keeping: sessions.Keeping, now: datetime
) -> SignedIn:
    """Begin a session for whoever knows the password.

    Raises:
        ThrottledError: too many attempts of the name, there or everywhere, or from the address have failed.
        AccountError: the name or the password is wrong, or the user is not active.
    """
    name = _countable(name)
    stored = _attempted(engine, name, address, counted_as=name, now=now)
    right = passwords.matches(stored, password)
    renewed = passwords.renewed(stored, password) if right and stored else None
    with transaction(engine) as connection:
        # Anew: what was true before the password was checked may have changed meanwhile.
        found = users.find(connection, name)
        if right and found and found.user.active and found.password_hash == stored:
            throttle.succeeded(connection, name, address)
            values = {"signed_in_at": now, "password_hash": renewed or stored}
            connection.execute(update(Users).where(Users.id == found.user.id).values(values))
            secret = sessions.begin(connection, found.user.id, keeping=keeping, now=now)
            audit.note(connection, name, "session.signed_in", f"user:{name}", {"address": address})
            return SignedIn(found.user, secret)
        # An unknown name is left out: many a password has been typed into the wrong field.
        target = f"user:{name}" if found else "user:?"
        audit.note(connection, ANONYMOUS, "session.failed", target, {"address": address})
    raise AccountError(_WRONG)


def begin_session(engine: Engine, user: User, *, address: str, keeping: sessions.Keeping, now: datetime) -> SignedIn:
    """Begin a session for somebody who has shown in another way who they are."""
    with transaction(engine) as connection:
        connection.execute(update(Users).where(Users.id == user.id).values(signed_in_at=now))
        secret = sessions.begin(connection, user.id, keeping=keeping, now=now)
        audit.note(connection, user.name, "session.signed_in", f"user:{user.name}", {"address": address})
    return SignedIn(user, secret)


def change_password(engine: Engine, user: User, old: str, new: str, *, address: str, now: datetime) -> None:
    """Give a user who knows the old password a new one, and sign them out everywhere.

    Raises:
        ThrottledError: the old one was wrong too often.
        AccountError: it is wrong, or the new one is refused.
    """
    password_hash = passwords.hashed(new, name=user.name)
    # Counted apart from signing in: no flood there keeps anybody from this. No name has a colon.
    counted_as = f"change:{user.name}"
    stored = _attempted(engine, user.name, address, counted_as=counted_as, now=now)
    if not passwords.matches(stored, old):
        raise AccountError("The old password is wrong. Type it again, or ask an admin for a link.")
    with transaction(engine) as connection:
        throttle.succeeded(connection, counted_as, address)
        users.put_password(connection, user, password_hash, actor=user.name)


def _attempted(engine: Engine, name: str, address: str, *, counted_as: str, now: datetime) -> str | None:
    """Count the attempt, and return the hash of the password of whoever may sign in by that name."""
    with transaction(engine) as connection:
        throttle.attempt(connection, counted_as, address, now=now)
        found = users.find(connection, name)
    may = found is not None and found.user.active and found.user.role != UserRole.SERVICE
    return found.password_hash if found is not None and may else None


def _countable(name: str) -> str:
    try:
        return users.checked_name(name)
    except AccountError:
        return _NO_NAME
