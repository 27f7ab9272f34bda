"""Rankings of other doors are recorded as served questions, and what a final answer was made of is noted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from rlhf_loop.store.migrations.ddl import ANSWER, create_index, create_table, doubles, integers, texts

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns and a table, which are empty in what is there: all questions so far came by the door of `/data`."""
    for column in (*texts("door", "caller", null=True), *integers("returned", null=True)):
        op.add_column("rlhf_served_questions", column)
    create_index("rlhf_served_questions", "door", [sa.text("served_at")], where="door IS NOT NULL")
    for column in doubles("record", null=True):
        op.add_column("rlhf_tokens", column)
    create_table(
        "rlhf_used_passages",
        integers("answer_id", "passage_id"),
        key=("answer_id", "passage_id"),
        parents={"answer_id": ANSWER, "passage_id": ANSWER},
    )
    create_index("rlhf_used_passages", "passage_id", [sa.text("passage_id")])
