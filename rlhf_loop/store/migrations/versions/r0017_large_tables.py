"""Large tables: indices of new reviews, decisions, and rankings that have documents, and sums of days."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from rlhf_loop.store.migrations.ddl import create_index, create_table, doubles, integers, texts, times

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add them; which rankings have no documents any more is noted by the next purge, a part at a time."""
    create_index("rlhf_reviews", "reviewed_at", ["reviewed_at"])
    create_index("rlhf_correction_decisions", "decided_by", ["decided_by", "decided_at"])
    for column in times("emptied_at", null=True):
        op.add_column("rlhf_served_questions", column)
    op.drop_index("ix_rlhf_served_questions_door", "rlhf_served_questions")
    create_index("rlhf_served_questions", "door", ["served_at"], where="door IS NOT NULL AND emptied_at IS NULL")
    create_table(
        "rlhf_served_days",
        texts("day"),
        doubles("threshold"),
        integers("answers"),
        doubles("score_sum"),
        integers("below"),
        sa.Column("sources", sa.JSON(), nullable=False),
        key=("day",),
    )
