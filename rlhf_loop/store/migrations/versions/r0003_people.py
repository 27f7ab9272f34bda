"""Users, sessions, tokens, one-time links, the audit log, and requests that were answered already."""

from __future__ import annotations

import sqlalchemy as sa

from rlhf_loop.store.migrations.ddl import USER, create_index, create_table, documents, integers, texts, times

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of people and of their rights."""
    create_table(
        "rlhf_users",
        texts("name", "role"),
        texts("password_hash", null=True),
        sa.Column("active", sa.Boolean(), nullable=False, server_default=sa.text("true")),
        times("created_at", now=True),
        times("signed_in_at", null=True),
        checks={"role": "role IN ('rater', 'admin', 'service')"},
        uniques={"name": ["name"]},
    )
    create_table(
        "rlhf_sessions",
        texts("token_hash"),
        integers("user_id"),
        times("created_at", "seen_at", now=True),
        times("expires_at"),
        key=["token_hash"],
        parents={"user_id": USER},
    )
    create_index("rlhf_sessions", "user_id", ["user_id"])
    create_table(
        "rlhf_tokens",
        integers("user_id"),
        texts("name", "token_hash", "start", "scopes"),
        times("created_at", now=True),
        times("expires_at", "used_at", "revoked_at", null=True),
        parents={"user_id": USER},
        uniques={"token_hash": ["token_hash"]},
    )
    create_index("rlhf_tokens", "user_id", ["user_id"])
    create_table(
        "rlhf_one_time_links",
        texts("token_hash"),
        integers("user_id", null=True),
        times("created_at", now=True),
        times("expires_at"),
        times("used_at", null=True),
        key=["token_hash"],
        parents={"user_id": USER},
    )
    create_table("rlhf_sign_in_failures", texts("name", "address"), times("failed_at", now=True))
    create_index("rlhf_sign_in_failures", "failed_at", ["failed_at"])
    create_table(
        "rlhf_audit_log", times("happened_at", now=True), texts("actor", "action", "target"), documents("detail")
    )
    create_index("rlhf_audit_log", "happened_at", ["happened_at"])
    create_table(
        "rlhf_answered_requests",
        texts("owner", "key", "request_hash"),
        integers("status"),
        texts("body"),
        texts("location", null=True),
        times("answered_at", now=True),
        key=["owner", "key"],
    )
    create_index("rlhf_answered_requests", "answered_at", ["answered_at"])
