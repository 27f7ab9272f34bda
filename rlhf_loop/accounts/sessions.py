"""Sessions: in which browsers somebody is signed in. The table has only a keyed hash of what a browser holds."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import Connection, Engine

from rlhf_loop.domain import User, UserRole
from rlhf_loop.store import audit
from rlhf_loop.store.engine import reading, transaction
from rlhf_loop.store.tables import Session
from rlhf_loop.store.tables import User as Users

#: A session in use is noted that often, not at each request.
_NOTED_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Keeping:
    """How sessions are kept: `key` makes the hashes, `hours` is how long a session lasts without being used.

    In use it lasts longer, by that time again at most.
    """

    key: bytes
    hours: float

    @property
    def lasts(self) -> timedelta:
        """The time after which whoever did nothing has to sign in again."""
        return timedelta(hours=self.hours)


@dataclass(frozen=True, slots=True)
class Found:
    """A session that goes on; `due` says that `keep` has something to write."""

    user: User
    due: bool


def begin(connection: Connection, user_id: int, *, keeping: Keeping, now: datetime) -> str:
    """Begin a session and return the secret for the browser; tidy up those that have ended."""
    connection.execute(delete(Session).where(Session.expires_at <= now))
    secret = secrets.token_urlsafe(32)
    values = {
        "token_hash": _hashed(secret, keeping.key),
        "user_id": user_id,
        "created_at": now,
        "seen_at": now,
        "expires_at": now + keeping.lasts,
    }
    connection.execute(insert(Session), values)
    return secret


def find(engine: Engine, secret: str, *, keeping: Keeping, now: datetime) -> Found | None:
    """Return whose session it is, None if it is nobody's any more."""
    wanted = (
        select(Users.id, Users.name, Users.role, Session.seen_at)
        .join(Users, Users.id == Session.user_id)
        .where(Session.token_hash == _hashed(secret, keeping.key), Session.expires_at > now, Users.active)
    )
    with reading(engine) as connection:
        row = connection.execute(wanted).first()
    if row is None:
        return None
    return Found(User(row.id, row.name, UserRole(row.role)), due=row.seen_at + _NOTED_EVERY <= now)


def keep(engine: Engine, secret: str, *, keeping: Keeping, now: datetime) -> None:
    """Note that the session is in use, so that it lasts."""
    mine = Session.token_hash == _hashed(secret, keeping.key)
    with transaction(engine) as connection:
        begun = connection.execute(select(Session.created_at).where(mine)).scalar()
        if begun is not None:
            ends = min(now + keeping.lasts, begun + 2 * keeping.lasts)
            connection.execute(update(Session).where(mine).values(seen_at=now, expires_at=ends))


def end(engine: Engine, secret: str, *, keeping: Keeping, user: User) -> None:
    """Sign the user out in this one browser."""
    with transaction(engine) as connection:
        ended = connection.execute(delete(Session).where(Session.token_hash == _hashed(secret, keeping.key))).rowcount
        if ended:
            audit.note(connection, user.name, "session.signed_out", f"user:{user.name}")


def end_all(engine: Engine, user: User) -> None:
    """Sign the user out everywhere."""
    with transaction(engine) as connection:
        ended = connection.execute(delete(Session).where(Session.user_id == user.id)).rowcount
        audit.note(connection, user.name, "session.signed_out", f"user:{user.name}", {"sessions": ended})


def _hashed(secret: str, key: bytes) -> str:
    return hmac.digest(key, b"session:" + secret.encode("utf-8", "replace"), "sha256").hex()
