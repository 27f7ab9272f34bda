"""Alembic's entry: it runs the revisions on the connection, and in the transaction, that `db.migrate` opened."""

from __future__ import annotations

from alembic import context

from rlhf_loop.store.engine import VERSION_TABLE
from rlhf_loop.store.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
