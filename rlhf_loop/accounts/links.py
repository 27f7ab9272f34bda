"""One-time links: for a user to set a password, and for the first admin to add themselves."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, and_, delete, insert, select, update
from sqlalchemy.engine import Connection, Engine

from rlhf_loop.accounts import users
from rlhf_loop.domain import User, UserRole
from rlhf_loop.errors import AccountError
from rlhf_loop.store import audit
from rlhf_loop.store.engine import reading, transaction
from rlhf_loop.store.tables import OneTimeLink
from rlhf_loop.store.tables import User as Users
from rlhf_loop.utils.translation import Message

HOURS = 24

_GONE = Message(
    "This link was used already, has expired, or was replaced by a newer one or a new password. Ask an admin for a new "
    "link, or, for the first admin, start the service again."
)
_NOT_FIRST = Message("There is an admin already, who can add others. This link is not valid any more; ask that admin.")


@dataclass(frozen=True, slots=True)
class Invitation:
    """The purpose of a link: a password for `user`, or without one the first admin."""

    user: User | None


def invite(engine: Engine, name: str, *, actor: str, now: datetime | None = None) -> str:
    """Make a link by which the user sets a password, in place of an unused earlier one; return its secret part.

    Raises:
        AccountError: there is no such user, they are not active, or a service.
    """
    now = now or datetime.now(UTC)
    with transaction(engine) as connection:
        user = users.find_known(connection, name).user
        users.refuse_service(user)
        if not user.active:
            raise AccountError(
                Message("{name!r} is not active and could not sign in. Activate them first.", name=user.name)
            )
        connection.execute(delete(OneTimeLink).where(OneTimeLink.user_id == user.id))
        audit.note(connection, actor, "link.created", f"user:{user.name}")
        return _put(connection, user.id, now)


def invite_first_admin(engine: Engine, *, now: datetime | None = None) -> str | None:
    """Make a link for the first admin; None where there is an active admin.

    Earlier ones stay good, since each host that serves prints one of its own; with the first admin, all are void.
    """
    now = now or datetime.now(UTC)
    with transaction(engine) as connection:
        if users.has_active_admin(connection):
            return None
        return _put(connection, None, now)


def invitation(engine: Engine, secret: str, *, now: datetime) -> Invitation:
    """Return what a link is for, without using it.

    Raises:
        AccountError: it is not valid any more.
    """
    wanted = (
        select(OneTimeLink.user_id, Users.name, Users.role, Users.active, Users.display_name)
        .outerjoin(Users, Users.id == OneTimeLink.user_id)
        .where(_is_valid(secret, now))
    )
    with reading(engine) as connection:
        row = connection.execute(wanted).first()
        if row is None or (row.user_id is not None and not row.active):
            raise AccountError(_GONE)
        if row.user_id is not None:
            return Invitation(User(row.user_id, row.name, UserRole(row.role), display_name=row.display_name))
        if users.has_active_admin(connection):
            raise AccountError(_NOT_FIRST)
        return Invitation(None)


def redeem(engine: Engine, secret: str, password: str | None, *, now: datetime, name: str | None = None) -> User:
    """Set the password by a link, which is not valid afterwards; the first admin chooses a name as well.

    Without a password nothing is set: where there are none, the link itself lets somebody in, once.

    A link that is used twice at one moment works for one of them. Where the name or the password is refused, it can be
    used again.

    Raises:
        AccountError: the link, the name or the password is refused.
    """
    # Looked up first, so that whoever guesses links does not cost a hash of a password.
    found = invitation(engine, secret, now=now)
    chosen = found.user.name if found.user else users.checked_name(name or "")
    password_hash = None if password is None else users.hash_password(password, name=chosen)
    with transaction(engine) as connection:
        if not found.user:
            # Two of these at one moment: on PostgreSQL the second waits here, and then sees that there is an admin.
            theirs = select(OneTimeLink.token_hash).where(OneTimeLink.user_id.is_(None))
            connection.execute(theirs.order_by(OneTimeLink.token_hash).with_for_update()).all()
        spent = update(OneTimeLink).where(_is_valid(secret, now)).values(used_at=now)
        if connection.execute(spent).rowcount != 1:
            raise AccountError(_GONE)
        if found.user:
            user = users.find_known(connection, chosen).user
            if not user.active:
                raise AccountError(_GONE)
            if password_hash is not None:
                users.set_hash(connection, user, password_hash, actor=user.name)
        else:
            if users.has_active_admin(connection):
                raise AccountError(_NOT_FIRST)
            user = users.add_hashed(connection, chosen, role=UserRole.ADMIN, actor=chosen, password_hash=password_hash)
        audit.note(connection, user.name, "link.used", f"user:{user.name}")
    return user


def _put(connection: Connection, user_id: int | None, now: datetime) -> str:
    connection.execute(delete(OneTimeLink).where(OneTimeLink.expires_at <= now))
    secret = secrets.token_urlsafe(32)
    values = {
        "token_hash": users.secret_hash(secret),
        "user_id": user_id,
        "created_at": now,
        "expires_at": now + timedelta(hours=HOURS),
    }
    connection.execute(insert(OneTimeLink), values)
    return secret


def _is_valid(secret: str, now: datetime) -> ColumnElement[bool]:
    mine = OneTimeLink.token_hash == users.secret_hash(secret)
    return and_(mine, OneTimeLink.used_at.is_(None), OneTimeLink.expires_at > now)
