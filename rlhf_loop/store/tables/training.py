"""The log of trainings."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, Index, PrimaryKeyConstraint, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from rlhf_loop.store.tables.columns import Base


class TrainingRun(Base):
    """One run of the training, the failed ones too. What a failed run cannot know is NULL."""

    __tablename__ = "rlhf_reward_model_training"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="pk_rlhf_reward_model_training"),
        UniqueConstraint("run_id", name="uq_rlhf_reward_model_training_run_id"),
        CheckConstraint(
            "status IN ('running', 'succeeded', 'rejected', 'failed')", name="ck_rlhf_reward_model_training_status"
        ),
        Index("ix_rlhf_reward_model_training_started_at", "started_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int]
    run_id: Mapped[str]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    status: Mapped[str]
    recipe: Mapped[str | None]
    encoder: Mapped[str | None]
    n_rated: Mapped[int | None]
    n_questions: Mapped[int | None]
    n_positive: Mapped[int | None]
    n_train: Mapped[int | None]
    n_test: Mapped[int | None]
    split_seed: Mapped[int | None]
    accuracy: Mapped[float | None]
    auc: Mapped[float | None]
    cv_accuracy: Mapped[float | None]
    cv_auc: Mapped[float | None]
    precision_at_1: Mapped[float | None]
    ndcg: Mapped[float | None]
    mrr: Mapped[float | None]
    incoming_precision_at_1: Mapped[float | None]
    metrics: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    data_fingerprint: Mapped[str | None]
    library_versions: Mapped[dict[str, str] | None] = mapped_column(JSON(none_as_null=True))
    model_file: Mapped[str | None]
    model_sha256: Mapped[str | None]
    error: Mapped[str | None]
