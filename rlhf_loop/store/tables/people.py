"""Who may do what: users, their sessions and tokens, what they did, and which requests were answered already."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    CheckConstraint,
    ForeignKeyConstraint,
    Index,
    PrimaryKeyConstraint,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from rlhf_loop.store.tables.columns import Base, Now


class User(Base):
    """A person or an application. `name` is lower case; without `password_hash` nobody can sign in as them."""

    __tablename__ = "rlhf_users"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="pk_rlhf_users"),
        UniqueConstraint("name", name="uq_rlhf_users_name"),
        CheckConstraint("role IN ('rater', 'admin', 'service')", name="ck_rlhf_users_role"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int]
    name: Mapped[str]
    role: Mapped[str]
    password_hash: Mapped[str | None]
    active: Mapped[bool] = mapped_column(server_default=text("true"))
    created_at: Mapped[datetime] = mapped_column(server_default=Now())
    signed_in_at: Mapped[datetime | None]


class Session(Base):
    """A browser in which somebody signed in, by the hash of what its cookie holds."""

    __tablename__ = "rlhf_sessions"
    __table_args__ = (
        PrimaryKeyConstraint("token_hash", name="pk_rlhf_sessions"),
        ForeignKeyConstraint(["user_id"], ["rlhf_users.id"], name="fk_rlhf_sessions_user_id", ondelete="CASCADE"),
        Index("ix_rlhf_sessions_user_id", "user_id"),
    )

    token_hash: Mapped[str]
    user_id: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=Now())
    seen_at: Mapped[datetime] = mapped_column(server_default=Now())
    expires_at: Mapped[datetime]


class Token(Base):
    """A token of the API, by its hash; `start` is how it begins, so that people can tell tokens apart."""

    __tablename__ = "rlhf_tokens"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="pk_rlhf_tokens"),
        UniqueConstraint("token_hash", name="uq_rlhf_tokens_token_hash"),
        ForeignKeyConstraint(["user_id"], ["rlhf_users.id"], name="fk_rlhf_tokens_user_id", ondelete="CASCADE"),
        Index("ix_rlhf_tokens_user_id", "user_id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int]
    user_id: Mapped[int]
    name: Mapped[str]
    token_hash: Mapped[str]
    start: Mapped[str]
    scopes: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=Now())
    expires_at: Mapped[datetime | None]
    used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class OneTimeLink(Base):
    """A link by which somebody sets a password once; without `user_id` it makes the first admin."""

    __tablename__ = "rlhf_one_time_links"
    __table_args__ = (
        PrimaryKeyConstraint("token_hash", name="pk_rlhf_one_time_links"),
        ForeignKeyConstraint(["user_id"], ["rlhf_users.id"], name="fk_rlhf_one_time_links_user_id", ondelete="CASCADE"),
    )

    token_hash: Mapped[str]
    user_id: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=Now())
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class SignInFailure(Base):
    """A sign-in that failed, kept for as long as it counts."""

    __tablename__ = "rlhf_sign_in_failures"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="pk_rlhf_sign_in_failures"),
        Index("ix_rlhf_sign_in_failures_failed_at", "failed_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int]
    name: Mapped[str]
    address: Mapped[str]
    failed_at: Mapped[datetime] = mapped_column(server_default=Now())


class AuditEntry(Base):
    """Who did what to what; rows are only ever added."""

    __tablename__ = "rlhf_audit_log"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="pk_rlhf_audit_log"),
        Index("ix_rlhf_audit_log_happened_at", "happened_at"),
        Index("ix_rlhf_audit_log_target", "target"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int]
    happened_at: Mapped[datetime] = mapped_column(server_default=Now())
    actor: Mapped[str]
    action: Mapped[str]
    target: Mapped[str]
    detail: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class AnsweredRequest(Base):
    """The answer to a request that came with an Idempotency-Key, by the key's owner."""

    __tablename__ = "rlhf_answered_requests"
    __table_args__ = (
        PrimaryKeyConstraint("owner", "key", name="pk_rlhf_answered_requests"),
        Index("ix_rlhf_answered_requests_answered_at", "answered_at"),
    )

    owner: Mapped[str]
    key: Mapped[str]
    request_hash: Mapped[str]
    status: Mapped[int]
    body: Mapped[str]
    location: Mapped[str | None]
    answered_at: Mapped[datetime] = mapped_column(server_default=Now())
