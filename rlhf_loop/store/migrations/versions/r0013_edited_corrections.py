"""An admin may approve a correction in other words, and take a decision back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from rlhf_loop.store.migrations.ddl import texts

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the admin's words and the decision before."""
    for column in (*texts("edited", null=True), sa.Column("former", sa.JSON(), nullable=True)):
        op.add_column("rlhf_correction_decisions", column)
