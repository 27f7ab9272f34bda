"""Reviews and preferences know what the last file without times said of them."""

from __future__ import annotations

from alembic import op

from rlhf_loop.store.migrations.ddl import texts

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, which are empty until the next import."""
    for table in ("rlhf_reviews", "rlhf_preferences"):
        for column in texts("imported", null=True):
            op.add_column(table, column)
