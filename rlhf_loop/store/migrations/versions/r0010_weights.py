"""A version of the reward model may have tuned layers, in a file that is named by its sum."""

from __future__ import annotations

from alembic import op

from rlhf_loop.store.migrations.ddl import texts

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, which is empty where there are none."""
    for column in texts("weights_sha256", null=True):
        op.add_column("rlhf_models", column)
