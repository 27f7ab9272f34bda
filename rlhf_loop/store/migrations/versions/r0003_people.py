"""Users, sessions, tokens, one-time links, the audit log, and requests that were answered already."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of people and of their rights."""
    _create_people()
    _create_traces()


def _on_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def _time(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.Text() if _on_sqlite() else sa.DateTime(timezone=True), **options)


def _now() -> sa.TextClause:
    return sa.text("(strftime('%Y-%m-%d %H:%M:%f000', 'now'))" if _on_sqlite() else "now()")


def _create_people() -> None:
    op.create_table(
        "rlhf_users",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text()),
        sa.Column("active", sa.Boolean(), nullable=False, server_default=sa.text("true")),
        _time("created_at", nullable=False, server_default=_now()),
        _time("signed_in_at"),
        sa.PrimaryKeyConstraint("id", name="pk_rlhf_users"),
        sa.CheckConstraint("role IN ('rater', 'admin', 'service')", name="ck_rlhf_users_role"),
        sa.UniqueConstraint("name", name="uq_rlhf_users_name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "rlhf_sessions",
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        _time("created_at", nullable=False, server_default=_now()),
        _time("seen_at", nullable=False, server_default=_now()),
        _time("expires_at", nullable=False),
        sa.PrimaryKeyConstraint("token_hash", name="pk_rlhf_sessions"),
        sa.ForeignKeyConstraint(["user_id"], ["rlhf_users.id"], name="fk_rlhf_sessions_user_id", ondelete="CASCADE"),
    )
    op.create_index("ix_rlhf_sessions_user_id", "rlhf_sessions", ["user_id"])
    op.create_table(
        "rlhf_tokens",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("start", sa.Text(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        _time("created_at", nullable=False, server_default=_now()),
        _time("expires_at"),
        _time("used_at"),
        _time("revoked_at"),
        sa.PrimaryKeyConstraint("id", name="pk_rlhf_tokens"),
        sa.ForeignKeyConstraint(["user_id"], ["rlhf_users.id"], name="fk_rlhf_tokens_user_id", ondelete="CASCADE"),
        sa.UniqueConstraint("token_hash", name="uq_rlhf_tokens_token_hash"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_rlhf_tokens_user_id", "rlhf_tokens", ["user_id"])
    op.create_table(
        "rlhf_one_time_links",
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Integer()),
        _time("created_at", nullable=False, server_default=_now()),
        _time("expires_at", nullable=False),
        _time("used_at"),
        sa.PrimaryKeyConstraint("token_hash", name="pk_rlhf_one_time_links"),
        sa.ForeignKeyConstraint(
            ["user_id"], ["rlhf_users.id"], name="fk_rlhf_one_time_links_user_id", ondelete="CASCADE"
        ),
    )


def _create_traces() -> None:
    op.create_table(
        "rlhf_sign_in_failures",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        _time("failed_at", nullable=False, server_default=_now()),
        sa.PrimaryKeyConstraint("id", name="pk_rlhf_sign_in_failures"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_rlhf_sign_in_failures_failed_at", "rlhf_sign_in_failures", ["failed_at"])
    op.create_table(
        "rlhf_audit_log",
        sa.Column("id", sa.Integer(), nullable=False),
        _time("happened_at", nullable=False, server_default=_now()),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("detail", sa.JSON()),
        sa.PrimaryKeyConstraint("id", name="pk_rlhf_audit_log"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_rlhf_audit_log_happened_at", "rlhf_audit_log", ["happened_at"])
    op.create_table(
        "rlhf_answered_requests",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_hash", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("location", sa.Text()),
        _time("answered_at", nullable=False, server_default=_now()),
        sa.PrimaryKeyConstraint("owner", "key", name="pk_rlhf_answered_requests"),
    )
    op.create_index("ix_rlhf_answered_requests_answered_at", "rlhf_answered_requests", ["answered_at"])
