"""The tables of the ratings database, the same on SQLite and PostgreSQL.

The consensus of several reviewers (`rlhf_interactions.rating`) is kept by triggers that the first migration creates, so
it is right whoever writes, plain SQL included.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    CheckConstraint,
    DateTime,
    Dialect,
    Double,
    ForeignKeyConstraint,
    Index,
    MetaData,
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

#: Whose review it is when nobody is named, and when plain SQL writes a rating.
ANONYMOUS = "anonymous"


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time: aware and in UTC on the way out, whatever the database.

    SQLite has no such type. There it is text of one width, `2025-01-31 09:30:00.000000`, which sorts by time.
    """

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"The time {value.isoformat()} has no time zone. Give an aware datetime.")
        value = value.astimezone(UTC)
        if dialect.name != "sqlite":
            return value
        return value.replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class _Now(FunctionElement[datetime]):
    """The server's clock, in the form in which `UtcDateTime` stores it."""

    inherit_cache = True


@compiles(_Now, "sqlite")
def _now_on_sqlite(element: _Now, compiler: Any, **_: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"


@compiles(_Now, "postgresql")
def _now_on_postgresql(element: _Now, compiler: Any, **_: Any) -> str:
    return "now()"


class _NewIdentity(FunctionElement[str]):
    """A random identity, for a row that is written without one."""

    inherit_cache = True


@compiles(_NewIdentity, "sqlite")
def _new_identity_on_sqlite(element: _NewIdentity, compiler: Any, **_: Any) -> str:
    return "lower(hex(randomblob(16)))"


@compiles(_NewIdentity, "postgresql")
def _new_identity_on_postgresql(element: _NewIdentity, compiler: Any, **_: Any) -> str:
    return "replace(gen_random_uuid()::text, '-', '')"


class Base(DeclarativeBase):
    """The tables of this package."""

    metadata = MetaData()
    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: UtcDateTime, str: Text, float: Double}


class Interaction(Base):
    """An answer that was offered for a question.

    `rating`, `feedback_comment`, `corrected_response` and `rated_at` sum up its reviews; triggers keep them.
    """

    __tablename__ = "rlhf_interactions"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="pk_rlhf_interactions"),
        UniqueConstraint("external_id", name="uq_rlhf_interactions_external_id"),
        CheckConstraint("trim(user_prompt) <> ''", name="ck_rlhf_interactions_user_prompt_not_empty"),
        CheckConstraint("trim(ai_response) <> ''", name="ck_rlhf_interactions_ai_response_not_empty"),
        CheckConstraint("rating IN (1, 2, 3, 4, 5)", name="ck_rlhf_interactions_rating_1_to_5"),
        CheckConstraint("shown_rank >= 1", name="ck_rlhf_interactions_shown_rank_from_1"),
        CheckConstraint("score >= 0 AND score <= 1", name="ck_rlhf_interactions_score_0_to_1"),
        Index("ix_rlhf_interactions_candidate_group", "candidate_group"),
        Index(
            "ix_rlhf_interactions_rated",
            "rating",
            sqlite_where=text("rating IS NOT NULL"),
            postgresql_where=text("rating IS NOT NULL"),
        ),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int]
    user_prompt: Mapped[str]
    ai_response: Mapped[str]
    rating: Mapped[int | None]
    feedback_comment: Mapped[str | None]
    corrected_response: Mapped[str | None]
    source: Mapped[str | None]
    candidate_group: Mapped[str | None]
    shown_rank: Mapped[int | None]
    score: Mapped[float | None]
    model_version: Mapped[str | None]
    external_id: Mapped[str] = mapped_column(server_default=_NewIdentity())
    created_at: Mapped[datetime] = mapped_column(server_default=_Now())
    rated_at: Mapped[datetime | None]
    #: How often the triggers summed up the reviews. They alone write it: by it they tell their own writes from others'.
    review_changes: Mapped[int] = mapped_column(server_default=text("0"))


class Review(Base):
    """What one reviewer said of one answer."""

    __tablename__ = "rlhf_reviews"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="pk_rlhf_reviews"),
        ForeignKeyConstraint(
            ["interaction_id"],
            ["rlhf_interactions.id"],
            name="fk_rlhf_reviews_interaction_id",
            ondelete="CASCADE",
        ),
        UniqueConstraint("interaction_id", "reviewer", name="uq_rlhf_reviews_interaction_id_reviewer"),
        CheckConstraint("trim(reviewer) <> ''", name="ck_rlhf_reviews_reviewer_not_empty"),
        CheckConstraint("rating IN (1, 2, 3, 4, 5)", name="ck_rlhf_reviews_rating_1_to_5"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int]
    interaction_id: Mapped[int]
    reviewer: Mapped[str] = mapped_column(server_default=text(f"'{ANONYMOUS}'"))
    rating: Mapped[int]
    comment: Mapped[str | None]
    correction: Mapped[str | None]
    reviewed_at: Mapped[datetime] = mapped_column(server_default=_Now())


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
