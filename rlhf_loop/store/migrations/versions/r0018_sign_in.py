"""People sign in by an identity provider, a proxy or a second factor, and are written to by e-mail."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from rlhf_loop.store.migrations.ddl import USER, create_index, create_table, integers, text, texts, times

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables and columns; the sessions that are there were begun by a password."""
    for column in texts("email", null=True):
        op.add_column("rlhf_users", column)
    create_index("rlhf_users", "email", ["email"], unique=True)
    columns: list[sa.Column[object]] = [
        text("method", "password"),
        *texts("subject", "provider_session", "provider_tokens", null=True),
        *times("checked_at", null=True),
    ]
    for column in columns:
        op.add_column("rlhf_sessions", column)
    create_table(
        "rlhf_identities",
        texts("issuer", "subject"),
        integers("user_id"),
        times("created_at", now=True),
        key=["issuer", "subject"],
        parents={"user_id": USER},
    )
    create_index("rlhf_identities", "user_id", ["user_id"])
    create_table(
        "rlhf_second_factors",
        integers("user_id"),
        texts("salt"),
        times("created_at", now=True),
        times("confirmed_at", null=True),
        integers("last_step"),
        key=["user_id"],
        parents={"user_id": USER},
    )
    create_table(
        "rlhf_recovery_codes", texts("code_hash"), integers("user_id"), key=["code_hash"], parents={"user_id": USER}
    )
    create_index("rlhf_recovery_codes", "user_id", ["user_id"])
