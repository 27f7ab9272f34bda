"""What a language model drafted is told from a document's own words; reasons and alarms can be translated."""

from __future__ import annotations

from alembic import op

from rlhf_loop.store.migrations.ddl import documents, texts

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns, which are empty in what is there: nobody knows any more who wrote it, and it stays in English."""
    for column in texts("drafted_by", null=True):
        op.add_column("rlhf_interactions", column)
    for table in ("rlhf_models", "rlhf_alarms", "rlhf_reward_model_training"):
        for column in documents("said"):
            op.add_column(table, column)
