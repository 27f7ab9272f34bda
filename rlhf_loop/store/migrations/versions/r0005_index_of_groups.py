"""The index of the candidate groups has the id, so that questions are counted without reading the answers."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_NAME, _TABLE = "ix_rlhf_interactions_candidate_group", "rlhf_interactions"


def upgrade() -> None:
    """Put the id into the index, where SQLite has it anyway."""
    if op.get_bind().dialect.name != "sqlite":
        op.drop_index(_NAME, _TABLE)
        op.create_index(_NAME, _TABLE, ["candidate_group"], postgresql_include=["id"])
