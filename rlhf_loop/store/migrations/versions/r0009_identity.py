"""The database has an identity, by which a copy of it is told from another database in its place."""

from __future__ import annotations

from uuid import uuid4

import sqlalchemy as sa
from alembic import op

from rlhf_loop.store.migrations.ddl import create_table, texts

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Give this database one; its copies keep it."""
    create_table("rlhf_database", texts("identity"))
    op.execute(sa.text("INSERT INTO rlhf_database (identity) VALUES (:new)").bindparams(new=uuid4().hex))
