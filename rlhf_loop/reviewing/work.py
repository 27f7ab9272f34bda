"""What a rater does with an answer: review it, skip it, take that back. Each is one transaction, with its audit entry.

What is typed is kept as a draft until it is submitted, and a submission that is refused leaves the draft as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Literal

from sqlalchemy import Insert, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine, Row

from rlhf_loop.config import Settings
from rlhf_loop.domain import ReviewerRole
from rlhf_loop.errors import ReviewChangedError
from rlhf_loop.reviewing.items import (
    MAX_COMMENT,
    ReviewItem,
    StoredReview,
    assigned_item,
    checked_correction,
    checked_rating,
    checked_text,
    not_given,
    stored_review,
)
from rlhf_loop.reviewing.queue import lease
from rlhf_loop.store import audit
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.interactions import lock, put_review, withdraw_review
from rlhf_loop.store.tables import AnswerScore, Assignment, Draft, Interaction

#: For how long something can be undone: a session of work, not the day before.
_UNDONE_WITHIN = timedelta(hours=12)


class SeenReview(Enum):
    """What a caller says that does not know which review the rater has seen."""

    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A review as a rater submits it."""

    rating: int
    comment: str | None = None
    correction: str | None = None
    harmful: bool = False


def submit(
    engine: Engine,
    interaction_id: int,
    *,
    reviewer: str,
    submission: Submission,
    seen: datetime | Literal[SeenReview.UNKNOWN] | None = SeenReview.UNKNOWN,
    now: datetime | None = None,
) -> None:
    """Store the rater's review of an answer that they were given, or change it; the draft is gone then.

    A correction that says the same as the answer is none. Submitting the same again changes nothing.
    With `seen`, the time of the review that the rater saw or None for none, only that one is replaced.

    Raises:
        ReviewChangedError: there is another review by the rater than `seen` says, or none any more.
        ValueError: a bad rating, or text that is too long or cannot be stored; review and draft stay as they were.
        LookupError: there is no such answer, or it was not given to the rater.
    """
    now = now or datetime.now(UTC)
    rating = checked_rating(submission.rating)
    comment = checked_text("comment", submission.comment, limit=MAX_COMMENT)
    with transaction(engine) as connection:
        given = _locked_assignment(connection, interaction_id, reviewer)
        correction = checked_correction(submission.correction, response=given.ai_response)
        before = stored_review(connection, interaction_id, reviewer=reviewer)
        same = before is not None and _said(before) == (rating, comment, correction, submission.harmful)
        if not same and not is_seen(before, seen):
            raise ReviewChangedError(_changed(before))
        if not same:
            put_review(
                connection,
                interaction_id,
                reviewer=reviewer,
                rating=rating,
                comment=comment,
                correction=correction,
                harmful=submission.harmful,
                role=ReviewerRole.EXPERT,
                rated_at=now,
            )
        if not same or given.state != "reviewed":
            earlier = None if before is None or same else _as_json(before)
            _set(connection, interaction_id, reviewer, state="reviewed", handled_at=now, earlier=earlier)
        _delete_draft(connection, interaction_id, reviewer)
        # It waits no more: the queue's list of what the model is unsure of holds only what does.
        connection.execute(delete(AnswerScore).where(AnswerScore.interaction_id == interaction_id))


def is_seen(review: StoredReview | None, seen: datetime | Literal[SeenReview.UNKNOWN] | None) -> bool:
    """Tell whether the review is the one that the rater saw, as far as that is known."""
    return seen is SeenReview.UNKNOWN or seen == (review.reviewed_at if review else None)


def skip(engine: Engine, interaction_id: int, *, reviewer: str, now: datetime | None = None) -> None:
    """Pass over an answer that the rater was given; it does not come again. A draft stays, and so does a review.

    Raises:
        LookupError: there is no such answer, or it was not given to the rater.
    """
    with transaction(engine) as connection:
        given = _locked_assignment(connection, interaction_id, reviewer)
        if given.state == "skipped":
            return
        if stored_review(connection, interaction_id, reviewer=reviewer):
            # A change that was begun and not made. When the review itself was made is what undoing goes by.
            _set(connection, interaction_id, reviewer, state="reviewed")
            return
        moment = now or datetime.now(UTC)
        _set(connection, interaction_id, reviewer, state="skipped", handled_at=moment, earlier=None)
        audit.note(connection, reviewer, "answer.skipped", f"interaction:{interaction_id}")


def undo(
    engine: Engine, *, reviewer: str, settings: Settings | None = None, now: datetime | None = None
) -> ReviewItem | None:
    """Take back what the rater submitted or skipped last, within twelve hours; None if there is nothing.

    A review is withdrawn; if it had replaced an earlier one by the rater, that one is back. Either way the answer is
    open again, and what was submitted is its draft. Undone again and again, it goes back one answer at a time; of
    several changes to one review only the last is undone.
    """
    now = now or datetime.now(UTC)
    newest = (
        select(Assignment.interaction_id)
        .where(
            Assignment.reviewer == reviewer,
            Assignment.handled_at > now - _UNDONE_WITHIN,
            Assignment.state != "open",
        )
        .order_by(Assignment.handled_at.desc(), Assignment.assigned_at.desc())
        .limit(1)
    )
    with transaction(engine) as connection:
        interaction_id = connection.execute(newest).scalar()
        if interaction_id is None:
            return None
        given = _locked_assignment(connection, interaction_id, reviewer)
        review = stored_review(connection, interaction_id, reviewer=reviewer)
        if given.state == "skipped":
            audit.note(connection, reviewer, "answer.reopened", f"interaction:{interaction_id}")
        elif review is not None:
            _put_back(connection, interaction_id, reviewer, given.earlier)
            rating, comment, correction, harmful = _said(review)
            _put_draft(connection, interaction_id, reviewer, now, rating, comment, correction, harmful=harmful)
        until = lease(settings or Settings(), now)
        _set(connection, interaction_id, reviewer, state="open", handled_at=None, earlier=None, leased_until=until)
        return assigned_item(connection, interaction_id, reviewer=reviewer)


def save_draft(
    engine: Engine,
    interaction_id: int,
    *,
    reviewer: str,
    rating: int | None = None,
    comment: str | None = None,
    correction: str | None = None,
    harmful: bool = False,
    now: datetime | None = None,
) -> datetime:
    """Keep what the rater has typed, and return when that was; a draft with nothing in it is deleted.

    Raises:
        ValueError: a bad rating, or text that is too long or cannot be stored; the earlier draft stays.
        LookupError: there is no such answer, or it was not given to the rater.
    """
    now = now or datetime.now(UTC)
    rating = None if rating is None else checked_rating(rating)
    comment = checked_text("comment", comment, limit=MAX_COMMENT)
    with transaction(engine) as connection:
        given = _locked_assignment(connection, interaction_id, reviewer)
        correction = checked_correction(correction, response=given.ai_response)
        if rating is None and comment is None and correction is None and not harmful:
            _delete_draft(connection, interaction_id, reviewer)
        else:
            _put_draft(connection, interaction_id, reviewer, now, rating, comment, correction, harmful=harmful)
    return now


def _locked_assignment(connection: Connection, interaction_id: int, reviewer: str) -> Row[Any]:
    lock(connection, interaction_id)
    found = (
        select(Assignment.state, Assignment.earlier, Interaction.ai_response)
        .join(Interaction, Interaction.id == Assignment.interaction_id)
        .where(Assignment.reviewer == reviewer, Assignment.interaction_id == interaction_id)
    )
    row = connection.execute(found).one_or_none()
    if row is None:
        raise LookupError(not_given(interaction_id, reviewer))
    return row


def _set(connection: Connection, interaction_id: int, reviewer: str, **values: Any) -> None:
    mine = (Assignment.reviewer == reviewer, Assignment.interaction_id == interaction_id)
    connection.execute(update(Assignment).where(*mine).values(**values))


def _said(review: StoredReview) -> tuple[int, str | None, str | None, bool]:
    return review.rating, review.comment, review.correction, review.harmful


def _changed(review: StoredReview | None) -> str:
    what = f"graded this answer {review.rating}" if review else "took your review of this answer back"
    return (
        f"You {what} in another window, so this grade was not stored. "
        f"The screen now shows that; press again to {'replace it' if review else 'grade it'}."
    )


def _as_json(review: StoredReview) -> dict[str, Any]:
    return {
        "rating": review.rating,
        "comment": review.comment,
        "correction": review.correction,
        "harmful": review.harmful,
        "reviewed_at": review.reviewed_at.isoformat(),
    }


def _put_back(connection: Connection, interaction_id: int, reviewer: str, earlier: Mapping[str, Any] | None) -> None:
    if earlier is None:
        withdraw_review(connection, interaction_id, reviewer=reviewer)
        return
    values = {**earlier, "rated_at": datetime.fromisoformat(earlier["reviewed_at"])}
    del values["reviewed_at"]
    put_review(connection, interaction_id, reviewer=reviewer, role=ReviewerRole.EXPERT, **values)


def _put_draft(
    connection: Connection,
    interaction_id: int,
    reviewer: str,
    now: datetime,
    rating: int | None,
    comment: str | None,
    correction: str | None,
    *,
    harmful: bool,
) -> None:
    typed = {"rating": rating, "comment": comment, "correction": correction, "harmful": harmful, "saved_at": now}
    values = {"reviewer": reviewer, "interaction_id": interaction_id, **typed}
    key = ["reviewer", "interaction_id"]
    statement: Insert
    if connection.dialect.name == "sqlite":
        statement = sqlite.insert(Draft).values(values).on_conflict_do_update(index_elements=key, set_=typed)
    else:
        statement = postgresql.insert(Draft).values(values).on_conflict_do_update(index_elements=key, set_=typed)
    connection.execute(statement)


def _delete_draft(connection: Connection, interaction_id: int, reviewer: str) -> None:
    connection.execute(delete(Draft).where(Draft.reviewer == reviewer, Draft.interaction_id == interaction_id))
