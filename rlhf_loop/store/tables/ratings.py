"""What was offered, and what was said of it.

The consensus of several reviewers (`rlhf_interactions.rating`) is kept by triggers that the migrations create, so it is
right whoever writes, plain SQL included.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    CheckConstraint,
    ForeignKeyConstraint,
    Index,
    PrimaryKeyConstraint,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from rlhf_loop.store.tables.columns import Base, NewIdentity, Now

#: Whose review it is when nobody is named, and when plain SQL writes a rating.
ANONYMOUS = "anonymous"


class Interaction(Base):
    """An answer that was offered for a question.

    `rating` and `rated_at` sum up the reviews by experts, `end_user_rating` those by end users; `feedback_comment` and
    `corrected_response` are the newest of an expert, else of an end user. Triggers keep them.
    """

    __tablename__ = "rlhf_interactions"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="pk_rlhf_interactions"),
        UniqueConstraint("external_id", name="uq_rlhf_interactions_external_id"),
        CheckConstraint("trim(user_prompt) <> ''", name="ck_rlhf_interactions_user_prompt_not_empty"),
        CheckConstraint("trim(ai_response) <> ''", name="ck_rlhf_interactions_ai_response_not_empty"),
        CheckConstraint("rating IN (1, 2, 3, 4, 5)", name="ck_rlhf_interactions_rating_1_to_5"),
        CheckConstraint("end_user_rating IN (1, 2, 3, 4, 5)", name="ck_rlhf_interactions_end_user_rating_1_to_5"),
        CheckConstraint("shown_rank >= 1", name="ck_rlhf_interactions_shown_rank_from_1"),
        CheckConstraint("score >= 0 AND score <= 1", name="ck_rlhf_interactions_score_0_to_1"),
        # With the id, as SQLite's indices have it anyway: questions are counted without reading the answers.
        Index("ix_rlhf_interactions_candidate_group", "candidate_group", postgresql_include=["id"]),
        Index(
            "ix_rlhf_interactions_rated",
            "rating",
            sqlite_where=text("rating IS NOT NULL"),
            postgresql_where=text("rating IS NOT NULL"),
        ),
        Index(
            "ix_rlhf_interactions_waiting",
            "id",
            sqlite_where=text("rating IS NULL"),
            postgresql_where=text("rating IS NULL"),
        ),
        # To find the same answer to the same question again; whole texts are too long for an index.
        Index("ix_rlhf_interactions_texts", text("substr(user_prompt, 1, 64)"), text("substr(ai_response, 1, 64)")),
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
    external_id: Mapped[str] = mapped_column(server_default=NewIdentity())
    created_at: Mapped[datetime] = mapped_column(server_default=Now())
    rated_at: Mapped[datetime | None]
    #: How often the triggers summed up the reviews. They alone write it: by it they tell their own writes from others'.
    review_changes: Mapped[int] = mapped_column(server_default=text("0"))
    end_user_rating: Mapped[int | None]
    title: Mapped[str | None]
    url: Mapped[str | None]
    licence: Mapped[str | None]
    retrieved_at: Mapped[datetime | None]


class Review(Base):
    """What one reviewer said of one answer; `harmful` is the flag that an expert sets."""

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
        CheckConstraint("role IN ('expert', 'end_user')", name="ck_rlhf_reviews_role"),
        Index("ix_rlhf_reviews_reviewer", "reviewer", "reviewed_at"),
        Index(
            "ix_rlhf_reviews_corrected",
            "id",
            sqlite_where=text("correction IS NOT NULL"),
            postgresql_where=text("correction IS NOT NULL"),
        ),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int]
    interaction_id: Mapped[int]
    reviewer: Mapped[str] = mapped_column(server_default=text(f"'{ANONYMOUS}'"))
    rating: Mapped[int]
    comment: Mapped[str | None]
    correction: Mapped[str | None]
    reviewed_at: Mapped[datetime] = mapped_column(server_default=Now())
    role: Mapped[str] = mapped_column(server_default=text("'expert'"))
    harmful: Mapped[bool] = mapped_column(server_default=text("false"))


class Preference(Base):
    """Which of two answers to one question a reviewer finds better. `first_id` is always the lower id."""

    __tablename__ = "rlhf_preferences"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="pk_rlhf_preferences"),
        ForeignKeyConstraint(
            ["first_id"], ["rlhf_interactions.id"], name="fk_rlhf_preferences_first_id", ondelete="CASCADE"
        ),
        ForeignKeyConstraint(
            ["second_id"], ["rlhf_interactions.id"], name="fk_rlhf_preferences_second_id", ondelete="CASCADE"
        ),
        UniqueConstraint("first_id", "second_id", "reviewer", name="uq_rlhf_preferences_pair_reviewer"),
        CheckConstraint("first_id < second_id", name="ck_rlhf_preferences_first_before_second"),
        CheckConstraint("preferred IN ('first', 'second', 'tie')", name="ck_rlhf_preferences_preferred"),
        CheckConstraint("role IN ('expert', 'end_user')", name="ck_rlhf_preferences_role"),
        Index("ix_rlhf_preferences_second_id", "second_id"),
        Index("ix_rlhf_preferences_reviewer", "reviewer", "preferred_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int]
    first_id: Mapped[int]
    second_id: Mapped[int]
    reviewer: Mapped[str]
    role: Mapped[str] = mapped_column(server_default=text("'expert'"))
    preferred: Mapped[str]
    comment: Mapped[str | None]
    preferred_at: Mapped[datetime] = mapped_column(server_default=Now())


class CorrectionDecision(Base):
    """What an admin decided about the correction in a review; it holds for this `correction`, not for a later one."""

    __tablename__ = "rlhf_correction_decisions"
    __table_args__ = (
        PrimaryKeyConstraint("review_id", name="pk_rlhf_correction_decisions"),
        ForeignKeyConstraint(
            ["review_id"], ["rlhf_reviews.id"], name="fk_rlhf_correction_decisions_review_id", ondelete="CASCADE"
        ),
    )

    review_id: Mapped[int] = mapped_column(autoincrement=False)
    correction: Mapped[str]
    approved: Mapped[bool]
    decided_by: Mapped[str]
    decided_at: Mapped[datetime] = mapped_column(server_default=Now())
