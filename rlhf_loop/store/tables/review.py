"""What the review screen needs: who was given what, drafts, scores of the live model, guidelines."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, ForeignKeyConstraint, Index, PrimaryKeyConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from rlhf_loop.store.tables.columns import Base, Now


class Assignment(Base):
    """An answer that a rater was given: open until `leased_until`, then reviewed or skipped. It is given only once.

    `why` is the reason of the queue. `handled_at` is when it was reviewed or skipped; `earlier` is the review that was
    replaced then, if there was one.
    """

    __tablename__ = "rlhf_assignments"
    __table_args__ = (
        PrimaryKeyConstraint("reviewer", "interaction_id", name="pk_rlhf_assignments"),
        ForeignKeyConstraint(
            ["interaction_id"], ["rlhf_interactions.id"], name="fk_rlhf_assignments_interaction_id", ondelete="CASCADE"
        ),
        CheckConstraint("state IN ('open', 'reviewed', 'skipped')", name="ck_rlhf_assignments_state"),
        Index("ix_rlhf_assignments_interaction_id", "interaction_id"),
        Index("ix_rlhf_assignments_reviewer_assigned_at", "reviewer", "assigned_at"),
    )

    reviewer: Mapped[str]
    interaction_id: Mapped[int]
    state: Mapped[str] = mapped_column(server_default=text("'open'"))
    why: Mapped[str] = mapped_column(server_default=text("'recent'"))
    assigned_at: Mapped[datetime]
    leased_until: Mapped[datetime]
    handled_at: Mapped[datetime | None]
    earlier: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))


class PairAssignment(Base):
    """Two answers to one question that a rater was given to compare. `first_id` is always the lower id."""

    __tablename__ = "rlhf_pair_assignments"
    __table_args__ = (
        PrimaryKeyConstraint("reviewer", "first_id", "second_id", name="pk_rlhf_pair_assignments"),
        ForeignKeyConstraint(
            ["first_id"], ["rlhf_interactions.id"], name="fk_rlhf_pair_assignments_first_id", ondelete="CASCADE"
        ),
        ForeignKeyConstraint(
            ["second_id"], ["rlhf_interactions.id"], name="fk_rlhf_pair_assignments_second_id", ondelete="CASCADE"
        ),
        CheckConstraint("first_id < second_id", name="ck_rlhf_pair_assignments_first_before_second"),
        CheckConstraint("state IN ('open', 'preferred', 'skipped')", name="ck_rlhf_pair_assignments_state"),
        Index("ix_rlhf_pair_assignments_first_id", "first_id"),
        Index("ix_rlhf_pair_assignments_second_id", "second_id"),
    )

    reviewer: Mapped[str]
    first_id: Mapped[int]
    second_id: Mapped[int]
    state: Mapped[str] = mapped_column(server_default=text("'open'"))
    assigned_at: Mapped[datetime]
    leased_until: Mapped[datetime]


class Draft(Base):
    """What a rater has typed and not yet submitted."""

    __tablename__ = "rlhf_drafts"
    __table_args__ = (
        PrimaryKeyConstraint("reviewer", "interaction_id", name="pk_rlhf_drafts"),
        ForeignKeyConstraint(
            ["interaction_id"], ["rlhf_interactions.id"], name="fk_rlhf_drafts_interaction_id", ondelete="CASCADE"
        ),
        CheckConstraint("rating IN (1, 2, 3, 4, 5)", name="ck_rlhf_drafts_rating_1_to_5"),
        Index("ix_rlhf_drafts_interaction_id", "interaction_id"),
    )

    reviewer: Mapped[str]
    interaction_id: Mapped[int]
    rating: Mapped[int | None]
    comment: Mapped[str | None]
    correction: Mapped[str | None]
    harmful: Mapped[bool] = mapped_column(server_default=text("false"))
    saved_at: Mapped[datetime] = mapped_column(server_default=Now())


class AnswerScore(Base):
    """What the live model thinks of an answer that waits for a review, and how far its question's best two are apart.

    `margin` is None but for those two.
    """

    __tablename__ = "rlhf_answer_scores"
    __table_args__ = (
        PrimaryKeyConstraint("interaction_id", name="pk_rlhf_answer_scores"),
        ForeignKeyConstraint(
            ["interaction_id"],
            ["rlhf_interactions.id"],
            name="fk_rlhf_answer_scores_interaction_id",
            ondelete="CASCADE",
        ),
        CheckConstraint("score >= 0 AND score <= 1", name="ck_rlhf_answer_scores_score_0_to_1"),
        Index("ix_rlhf_answer_scores_score", "score"),
        Index("ix_rlhf_answer_scores_margin", "margin"),
    )

    interaction_id: Mapped[int] = mapped_column(autoincrement=False)
    model_version: Mapped[str]
    score: Mapped[float]
    margin: Mapped[float | None]
    scored_at: Mapped[datetime] = mapped_column(server_default=Now())


class Guideline(Base):
    """The guidelines for raters, one row a version; the newest is in force."""

    __tablename__ = "rlhf_guidelines"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="pk_rlhf_guidelines"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int]
    introduction: Mapped[str]
    grade_1: Mapped[str]
    grade_2: Mapped[str]
    grade_3: Mapped[str]
    grade_4: Mapped[str]
    grade_5: Mapped[str]
    edited_by: Mapped[str]
    edited_at: Mapped[datetime] = mapped_column(server_default=Now())
