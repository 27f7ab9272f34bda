"""Tokens of the API: shown once, stored as a hash, with the scopes that they are for."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta

from sqlalchemy import insert, or_, select, update
from sqlalchemy.engine import Engine

from rlhf_loop.accounts import users
from rlhf_loop.domain import User, UserRole
from rlhf_loop.errors import AccountError
from rlhf_loop.store import audit
from rlhf_loop.store.engine import reading, transaction
from rlhf_loop.store.tables import Token
from rlhf_loop.store.tables import User as Users
from rlhf_loop.utils.text import one_line, visible
from rlhf_loop.utils.translation import Message

READ = "interactions:read"
WRITE = "interactions:write"
#: Reviews of end users, and those of the token's own user.
REVIEW = "reviews:write"
#: Reviews in the name of any expert.
REVIEW_AS_EXPERT = "reviews:expert"
#: What Prometheus needs, and nothing else.
METRICS = "metrics:read"
#: To have documents ranked.
RERANK = "rerank"
#: Beside `RERANK`: by scores that do not depend on the other documents, for a client that sends a list in parts.
BATCH = "rerank:batch"
#: To have the language model answer, which costs more than to rank.
CHAT = "chat"
SCOPES = (READ, WRITE, REVIEW, REVIEW_AS_EXPERT, METRICS, RERANK, BATCH, CHAT)

#: How each begins, so that scanners for leaked secrets can know them.
PREFIX = "rlhf_"
LONGEST_DAYS = 3_650
_SHOWN = len(PREFIX) + 6
_LONGEST_NAME = 100
#: A token in use is noted that often, not at each request.
_NOTED_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that was just made; `secret` is nowhere else."""

    id: int
    secret: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenInfo:
    """A token as an admin sees it; `start` is how its secret begins."""

    id: int
    name: str
    user: str
    start: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    used_at: datetime | None
    revoked_at: datetime | None
    record: float | None

    def valid(self, now: datetime) -> bool:
        """Tell whether the token itself is still good; its user may not be."""
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > now)


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token that came with a request: its user and scopes; `due` says that `note_use` has something to write.

    `record` is the share of its rankings that is recorded, None for that of the settings.
    """

    token_id: int
    user: User
    scopes: frozenset[str]
    due: bool
    record: float | None = None


def add(
    engine: Engine,
    name: str,
    *,
    user: str,
    scopes: Iterable[str],
    actor: str,
    days: int | None = None,
    record: float | None = None,
    now: datetime | None = None,
) -> NewToken:
    """Make a token for a user; without `days` it does not expire.

    `record` is the share of its rankings that is recorded, by default that of the settings.

    Raises:
        AccountError: there is no such active user or scope, no scope at all, or the name, the days or the share are
            unusable.
    """
    shown, chosen, now = one_line(visible(name)), sorted(set(scopes)), now or datetime.now(UTC)
    if not shown or len(shown) > _LONGEST_NAME:
        raise AccountError(
            Message("A token's name has 1 to {most} characters. Say what it is for, e.g. 'my app'.", most=_LONGEST_NAME)
        )
    if not chosen or not set(chosen) <= set(SCOPES):
        unknown = ", ".join(repr(scope[:80]) for scope in chosen if scope not in SCOPES)
        scopes = ", ".join(SCOPES)
        if unknown:
            raise AccountError(
                Message("There is no scope {unknown}. Choose from: {scopes}.", unknown=unknown, scopes=scopes)
            )
        raise AccountError(Message("A token needs a scope. Choose from: {scopes}.", scopes=scopes))
    if days is not None and not 1 <= days <= LONGEST_DAYS:
        raise AccountError(
            Message("A token cannot last {days} days. Choose 1 to {most:,}, or no end.", days=days, most=LONGEST_DAYS)
        )
    if record is not None and not 0 <= record <= 1:
        raise AccountError(
            Message("The share {share:g} of recorded rankings is not valid. Choose 0 (none) to 1 (all).", share=record)
        )
    secret = PREFIX + secrets.token_urlsafe(32)
    with transaction(engine) as connection:
        owner = users.find_known(connection, user).user
        if not owner.active:
            raise AccountError(
                Message("{name!r} is not active, so a token would not work. Activate them first.", name=owner.name)
            )
        values = {
            "user_id": owner.id,
            "name": shown,
            "token_hash": users.secret_hash(secret),
            "start": secret[:_SHOWN],
            "scopes": " ".join(chosen),
            "created_at": now,
            "expires_at": None if days is None else now + timedelta(days=days),
            "record": record,
        }
        id = connection.execute(insert(Token).returning(Token.id), values).scalar_one()
        detail: dict[str, object] = {"name": shown, "user": owner.name, "scopes": chosen, "days": days}
        detail |= {} if record is None else {"record": record}
        audit.note(connection, actor, "token.created", f"token:{id}", detail)
    return NewToken(id, secret)


def tokens(engine: Engine) -> list[TokenInfo]:
    """Return all tokens, the newest first."""
    own = [getattr(Token, field.name) for field in fields(TokenInfo) if field.name != "user"]
    wanted = select(*own, Users.name.label("user")).join(Users, Users.id == Token.user_id).order_by(Token.id.desc())
    with reading(engine) as connection:
        rows = connection.execute(wanted).mappings()
        return [TokenInfo(**{**row, "scopes": tuple(row["scopes"].split())}) for row in rows]


def revoke(engine: Engine, id: int, *, actor: str) -> None:
    """Make a token worthless; doing it again changes nothing.

    Raises:
        AccountError: there is no such token.
    """
    with transaction(engine) as connection:
        name = connection.execute(select(Token.name).where(Token.id == id)).scalar()
        if name is None:
            raise AccountError(Message("There is no token {id}. All tokens: rlhf-loop tokens list", id=id))
        still = update(Token).where(Token.id == id, Token.revoked_at.is_(None)).values(revoked_at=datetime.now(UTC))
        if connection.execute(still).rowcount:
            audit.note(connection, actor, "token.revoked", f"token:{id}", {"name": name})


def find(engine: Engine, secret: str, *, now: datetime) -> Bearer | None:
    """Return the token's user and scopes, None if it is unknown, expired, revoked, or its user is not active."""
    if not secret.startswith(PREFIX):
        return None
    wanted = (
        select(Token.id, Token.scopes, Token.used_at, Token.record, Users.id.label("user_id"), Users.name, Users.role)
        .join(Users, Users.id == Token.user_id)
        .where(
            Token.token_hash == users.secret_hash(secret),
            Token.revoked_at.is_(None),
            or_(Token.expires_at.is_(None), Token.expires_at > now),
            Users.active,
        )
    )
    with reading(engine) as connection:
        row = connection.execute(wanted).first()
    if row is None:
        return None
    user = User(row.user_id, row.name, UserRole(row.role))
    due = row.used_at is None or row.used_at + _NOTED_EVERY <= now
    return Bearer(row.id, user, frozenset(row.scopes.split()), due, row.record)


def note_use(engine: Engine, id: int, *, now: datetime) -> None:
    """Note that the token was used just now."""
    with transaction(engine) as connection:
        connection.execute(update(Token).where(Token.id == id).values(used_at=now))
