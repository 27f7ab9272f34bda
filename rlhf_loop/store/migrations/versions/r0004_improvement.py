"""The registry of models, the questions that were answered, and alarms."""

from __future__ import annotations

import sqlalchemy as sa

from rlhf_loop.store.migrations.ddl import create_index, create_table, documents, doubles, text, texts, times

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of the loop's own improvement."""
    create_table(
        "rlhf_models",
        texts("version", "sha256", "state", "reason", "recipe", "encoder"),
        texts("run_id", null=True),
        doubles("frozen_share", null=True),
        documents("judgement", "metrics"),
        times("made_at", "changed_at", now=True),
        times("live_from", "live_until", null=True),
        uniques={"version": ["version"], "sha256": ["sha256"]},
        checks={"state": "state IN ('candidate', 'live', 'retired', 'rejected')"},
    )
    create_index("rlhf_models", "live", ["state"], unique=True, where="state = 'live'")
    create_table(
        "rlhf_served_questions",
        texts("candidate_group"),
        times("served_at"),
        texts("policy"),
        sa.Column("propensity", sa.Double(), nullable=False, server_default=sa.text("1.0")),
        texts("experiment", "model_version", "first_id", null=True),
        documents("teams", "degraded", "timings"),
        key=["candidate_group"],
        checks={"propensity": "propensity > 0 AND propensity <= 1"},
    )
    create_index("rlhf_served_questions", "served_at", ["served_at"])
    create_index("rlhf_served_questions", "first_id", ["first_id"])
    create_index("rlhf_served_questions", "experiment", ["experiment", "served_at"], where="experiment IS NOT NULL")
    create_table(
        "rlhf_alarms",
        texts("kind"),
        text("subject", ""),
        texts("message"),
        documents("detail"),
        times("raised_at", "seen_at", now=True),
        times("cleared_at", "notified_at", "cleared_notified_at", "taken_until", null=True),
    )
    create_index("rlhf_alarms", "open", ["kind", "subject"], unique=True, where="cleared_at IS NULL")
    create_index("rlhf_alarms", "raised_at", ["raised_at"])
