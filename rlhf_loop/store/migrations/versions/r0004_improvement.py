"""The registry of models, the questions that were answered, and alarms."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of the loop's own improvement."""
    _create_models()
    _create_served_questions()
    _create_alarms()


def _on_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def _time(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.Text() if _on_sqlite() else sa.DateTime(timezone=True), **options)


def _now() -> sa.TextClause:
    return sa.text("(strftime('%Y-%m-%d %H:%M:%f000', 'now'))" if _on_sqlite() else "now()")


def _create_models() -> None:
    op.create_table(
        "rlhf_models",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("recipe", sa.Text(), nullable=False),
        sa.Column("encoder", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text()),
        sa.Column("frozen_share", sa.Double()),
        sa.Column("judgement", sa.JSON()),
        sa.Column("metrics", sa.JSON()),
        _time("made_at", nullable=False, server_default=_now()),
        _time("changed_at", nullable=False, server_default=_now()),
        _time("live_from"),
        _time("live_until"),
        sa.PrimaryKeyConstraint("id", name="pk_rlhf_models"),
        sa.UniqueConstraint("version", name="uq_rlhf_models_version"),
        sa.UniqueConstraint("sha256", name="uq_rlhf_models_sha256"),
        sa.CheckConstraint("state IN ('candidate', 'live', 'retired', 'rejected')", name="ck_rlhf_models_state"),
        sqlite_autoincrement=True,
    )
    live = sa.text("state = 'live'")
    op.create_index(
        "uq_rlhf_models_live", "rlhf_models", ["state"], unique=True, sqlite_where=live, postgresql_where=live
    )


def _create_served_questions() -> None:
    op.create_table(
        "rlhf_served_questions",
        sa.Column("candidate_group", sa.Text(), nullable=False),
        _time("served_at", nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("propensity", sa.Double(), nullable=False, server_default=sa.text("1.0")),
        sa.Column("experiment", sa.Text()),
        sa.Column("model_version", sa.Text()),
        sa.Column("first_id", sa.Text()),
        sa.Column("teams", sa.JSON()),
        sa.Column("degraded", sa.JSON()),
        sa.Column("timings", sa.JSON()),
        sa.PrimaryKeyConstraint("candidate_group", name="pk_rlhf_served_questions"),
        sa.CheckConstraint("propensity > 0 AND propensity <= 1", name="ck_rlhf_served_questions_propensity"),
    )
    op.create_index("ix_rlhf_served_questions_served_at", "rlhf_served_questions", ["served_at"])
    op.create_index("ix_rlhf_served_questions_first_id", "rlhf_served_questions", ["first_id"])
    in_experiment = sa.text("experiment IS NOT NULL")
    op.create_index(
        "ix_rlhf_served_questions_experiment",
        "rlhf_served_questions",
        ["experiment", "served_at"],
        sqlite_where=in_experiment,
        postgresql_where=in_experiment,
    )


def _create_alarms() -> None:
    op.create_table(
        "rlhf_alarms",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("detail", sa.JSON()),
        _time("raised_at", nullable=False, server_default=_now()),
        _time("seen_at", nullable=False, server_default=_now()),
        _time("cleared_at"),
        _time("notified_at"),
        _time("cleared_notified_at"),
        _time("taken_until"),
        sa.PrimaryKeyConstraint("id", name="pk_rlhf_alarms"),
        sqlite_autoincrement=True,
    )
    still = sa.text("cleared_at IS NULL")
    op.create_index(
        "uq_rlhf_alarms_open",
        "rlhf_alarms",
        ["kind", "subject"],
        unique=True,
        sqlite_where=still,
        postgresql_where=still,
    )
    op.create_index("ix_rlhf_alarms_raised_at", "rlhf_alarms", ["raised_at"])
