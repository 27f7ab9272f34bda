"""Users have names to show, and answers may be skipped as none of a rater's field; flags are found by an index."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from rlhf_loop.store.migrations.ddl import texts

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, which are empty and false in what is there, and the indexes."""
    field: sa.Column[bool] = sa.Column("not_my_field", sa.Boolean(), nullable=False, server_default=sa.text("false"))
    op.add_column("rlhf_assignments", field)
    for column in texts("display_name", null=True):
        op.add_column("rlhf_users", column)
    for table, suffix, key, flag in (
        ("rlhf_assignments", "not_my_field", "interaction_id", "not_my_field"),
        ("rlhf_reviews", "flagged", "id", "harmful"),
    ):
        name = f"ix_{table}_{suffix}"
        op.create_index(name, table, [key], sqlite_where=sa.text(f"{flag} = 1"), postgresql_where=sa.text(flag))
