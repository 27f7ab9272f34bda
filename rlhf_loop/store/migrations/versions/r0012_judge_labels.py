"""Labels of judges, models that rate answers, stand apart from what people say."""

from __future__ import annotations

import sqlalchemy as sa

from rlhf_loop.store.migrations.ddl import ANSWER, create_index, create_table, doubles, integers, texts, times

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table, which is empty: no earlier import was of a judge's labels."""
    create_table(
        "rlhf_judge_labels",
        integers("interaction_id"),
        texts("judge"),
        doubles("label"),
        times("labelled_at", now=True),
        integers("import_id"),
        checks={"judge_not_empty": "trim(judge) <> ''", "label_1_to_5": "label >= 1 AND label <= 5"},
        parents={"interaction_id": ANSWER},
        uniques={"interaction_id_judge_import_id": ["interaction_id", "judge", "import_id"]},
    )
    create_index("rlhf_judge_labels", "import_id", [sa.text("import_id")])
