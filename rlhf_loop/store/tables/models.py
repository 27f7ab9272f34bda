"""The registry of reward models: one row a version."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, Index, PrimaryKeyConstraint, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from rlhf_loop.store.tables.columns import Base, Now


class ModelVersion(Base):
    """A trained model. At most one is live.

    `reason` says in words why it has its state. `judgement` is what the gate saw, `metrics` what the training measured.
    `live_from` and `live_until` are of the last time that it was live. `sha256` is that of its file.
    """

    __tablename__ = "rlhf_models"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="pk_rlhf_models"),
        UniqueConstraint("version", name="uq_rlhf_models_version"),
        UniqueConstraint("sha256", name="uq_rlhf_models_sha256"),
        CheckConstraint("state IN ('candidate', 'live', 'retired', 'rejected')", name="ck_rlhf_models_state"),
        Index(
            "uq_rlhf_models_live",
            "state",
            unique=True,
            sqlite_where=text("state = 'live'"),
            postgresql_where=text("state = 'live'"),
        ),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int]
    version: Mapped[str]
    sha256: Mapped[str]
    state: Mapped[str]
    reason: Mapped[str]
    recipe: Mapped[str]
    encoder: Mapped[str]
    run_id: Mapped[str | None]
    frozen_share: Mapped[float | None]
    judgement: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    metrics: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    made_at: Mapped[datetime] = mapped_column(server_default=Now())
    changed_at: Mapped[datetime] = mapped_column(server_default=Now())
    live_from: Mapped[datetime | None]
    live_until: Mapped[datetime | None]
