"""Corrections and flags for admins: an approved correction becomes a candidate answer, a flag marks a harmful one.

A decision holds for the words that the admin saw. If the expert changes them, the correction waits again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import and_, func, select
from sqlalchemy.engine import Connection, Engine, Row

from rlhf_loop import domain
from rlhf_loop.store import audit
from rlhf_loop.store.engine import reading, transaction, upsert
from rlhf_loop.store.interactions import lock
from rlhf_loop.store.tables import (
    LARGEST_ID,
    ORIGIN_COLUMNS,
    REVIEW_COLUMNS,
    CorrectionDecision,
    Interaction,
    Review,
    origin_of,
    review_of,
)
from rlhf_loop.utils.text import visible

State = Literal["pending", "approved", "rejected"]

_DECIDED = and_(CorrectionDecision.review_id == Review.id, CorrectionDecision.correction == Review.correction)


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """A review with a better answer to a question; `approved` is None until an admin has decided about these words."""

    review_id: int
    interaction_key: int
    prompt: str
    response: str
    review: domain.Review
    approved: bool | None
    decided_by: str | None
    decided_at: datetime | None

    @property
    def correction(self) -> str:
        """The better answer."""
        return self.review.correction or ""


@dataclass(frozen=True, slots=True)
class ApprovedStamp:
    """A value that differs whenever the approved corrections do."""

    count: int
    ids: int
    newest: datetime | None


def corrections(
    engine: Engine, *, state: State | None = None, before: int | None = None, limit: int = 50
) -> list[Correction]:
    """Return corrections, the newest review first; `before` is the review's id of the last one already seen."""
    wanted = _all().order_by(Review.id.desc()).limit(limit)
    if before is not None:
        wanted = wanted.where(Review.id < min(before, LARGEST_ID))
    if state == "pending":
        wanted = wanted.where(CorrectionDecision.review_id.is_(None))
    elif state is not None:
        wanted = wanted.where(CorrectionDecision.approved.is_(state == "approved"))
    with reading(engine) as connection:
        return [_correction(row) for row in connection.execute(wanted)]


def decide(
    engine: Engine, review_id: int, *, approved: bool, correction: str, decided_by: str, now: datetime | None = None
) -> None:
    """Approve or reject the correction in a review; `correction` is the text that the admin saw.

    Raises:
        LookupError: there is no such review any more, or no correction in it.
        ValueError: the correction is another one by now.
    """
    with transaction(engine) as connection:
        present = _present(connection, review_id)
        if present is None or present.correction is None:
            raise LookupError(
                f"There is no correction in review {review_id}. It may have been withdrawn; reload the list."
            )
        if visible(present.correction) != visible(correction):
            raise ValueError("The correction was changed while you read it. Read it again, and decide then.")
        decision = {
            "review_id": review_id,
            "correction": present.correction,
            "approved": approved,
            "decided_by": decided_by,
            "decided_at": now or datetime.now(UTC),
        }
        upsert(connection, CorrectionDecision, decision, key=["review_id"])
        action = "correction.approved" if approved else "correction.rejected"
        audit.note(connection, decided_by, action, f"review:{review_id}", {"interaction": present.interaction_key})


def approved_corrections(engine: Engine) -> list[Correction]:
    """Return the corrections that are approved as they are now, ordered by review."""
    wanted = _all().where(CorrectionDecision.approved.is_(True)).order_by(Review.id)
    with reading(engine) as connection:
        return [_correction(row) for row in connection.execute(wanted)]


def approved_stamp(engine: Engine) -> ApprovedStamp:
    """Return a cheap value that tells whether `approved_corrections` would return something else than before."""
    wanted = (
        select(
            func.count(),
            func.coalesce(func.sum(CorrectionDecision.review_id), 0),
            func.max(CorrectionDecision.decided_at),
        )
        .join(Review, _DECIDED)
        .where(CorrectionDecision.approved.is_(True))
    )
    with reading(engine) as connection:
        count, ids, newest = connection.execute(wanted).one()
    return ApprovedStamp(int(count), int(ids), newest)


def _present(connection: Connection, review_id: int) -> Any:
    """Return the review as it is, with its answer locked; None if there is none."""
    if review_id > LARGEST_ID:
        return None
    wanted = select(Review.interaction_key.label("interaction_key"), Review.correction).where(Review.id == review_id)
    found = connection.execute(wanted).one_or_none()
    if found is not None:
        lock(connection, found.interaction_key)
    return connection.execute(wanted).one_or_none()


def _all() -> Any:
    return (
        select(
            Review.id,
            Review.interaction_key.label("interaction_key"),
            Interaction.user_prompt,
            Interaction.ai_response,
            *REVIEW_COLUMNS,
            CorrectionDecision.approved,
            CorrectionDecision.decided_by,
            CorrectionDecision.decided_at,
        )
        .join(Interaction, Interaction.id == Review.interaction_key)
        .join(CorrectionDecision, _DECIDED, isouter=True)
        .where(Review.correction.is_not(None))
    )


def _correction(row: Row[Any]) -> Correction:
    return Correction(
        review_id=row.id,
        interaction_key=row.interaction_key,
        prompt=row.user_prompt,
        response=row.ai_response,
        review=review_of(row),
        approved=row.approved,
        decided_by=row.decided_by,
        decided_at=row.decided_at,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A review that flags an answer as harmful, and where the answer comes from."""

    review_id: int
    prompt: str
    response: str
    origin: domain.Origin
    review: domain.Review


def flags(engine: Engine, *, before: int | None = None, limit: int = 50) -> list[Flag]:
    """Return the flags, the newest review first; `before` is the review's id of the last one already seen."""
    wanted = (
        select(Review.id, Interaction.user_prompt, Interaction.ai_response, *ORIGIN_COLUMNS, *REVIEW_COLUMNS)
        .join(Interaction, Interaction.id == Review.interaction_key)
        .where(Review.harmful)
        .order_by(Review.id.desc())
        .limit(limit)
    )
    if before is not None:
        wanted = wanted.where(Review.id < min(before, LARGEST_ID))
    with reading(engine) as connection:
        return [
            Flag(
                review_id=row.id,
                prompt=row.user_prompt,
                response=row.ai_response,
                origin=origin_of(row),
                review=review_of(row),
            )
            for row in connection.execute(wanted)
        ]
