"""The service in operation: which questions were answered, by which policy and how fast; and what is amiss."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, Index, PrimaryKeyConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from rlhf_loop.store.tables.columns import Base, Now


class ServedQuestion(Base):
    """A question that was answered. `candidate_group` is that of its interactions.

    `policy` is what ordered the answers (live, incoming, a model's version, or interleaved), chosen with the
    probability `propensity`. `experiment` names what the live order was compared with then: the other order, with
    " interleaved" behind it where both were shown in turn. `first_id` is the external id of the answer that came first,
    None where nothing was found. `teams` has for interleaved answers, by external id, the ranking that put each one
    there. `degraded` has what did not work and `timings` milliseconds by stage.
    """

    __tablename__ = "rlhf_served_questions"
    __table_args__ = (
        PrimaryKeyConstraint("candidate_group", name="pk_rlhf_served_questions"),
        CheckConstraint("propensity > 0 AND propensity <= 1", name="ck_rlhf_served_questions_propensity"),
        Index("ix_rlhf_served_questions_served_at", "served_at"),
        Index("ix_rlhf_served_questions_first_id", "first_id"),
        Index(
            "ix_rlhf_served_questions_experiment",
            "experiment",
            "served_at",
            sqlite_where=text("experiment IS NOT NULL"),
            postgresql_where=text("experiment IS NOT NULL"),
        ),
    )

    candidate_group: Mapped[str]
    served_at: Mapped[datetime]
    policy: Mapped[str]
    propensity: Mapped[float] = mapped_column(server_default=text("1.0"))
    experiment: Mapped[str | None]
    model_version: Mapped[str | None]
    first_id: Mapped[str | None]
    teams: Mapped[dict[str, str] | None] = mapped_column(JSON(none_as_null=True))
    degraded: Mapped[dict[str, str] | None] = mapped_column(JSON(none_as_null=True))
    timings: Mapped[dict[str, float] | None] = mapped_column(JSON(none_as_null=True))


class Alarm(Base):
    """Something that is amiss, from `raised_at` until `cleared_at`. Of one kind and subject at most one is open.

    `notified_at` is when the webhook took the news that it was raised, `cleared_notified_at` that it is over.
    Until `taken_until` a process is telling it.
    """

    __tablename__ = "rlhf_alarms"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="pk_rlhf_alarms"),
        Index(
            "uq_rlhf_alarms_open",
            "kind",
            "subject",
            unique=True,
            sqlite_where=text("cleared_at IS NULL"),
            postgresql_where=text("cleared_at IS NULL"),
        ),
        Index("ix_rlhf_alarms_raised_at", "raised_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int]
    kind: Mapped[str]
    subject: Mapped[str] = mapped_column(server_default=text("''"))
    message: Mapped[str]
    detail: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    raised_at: Mapped[datetime] = mapped_column(server_default=Now())
    seen_at: Mapped[datetime] = mapped_column(server_default=Now())
    cleared_at: Mapped[datetime | None]
    notified_at: Mapped[datetime | None]
    cleared_notified_at: Mapped[datetime | None]
    taken_until: Mapped[datetime | None]
