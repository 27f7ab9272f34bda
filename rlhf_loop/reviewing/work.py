"""A rater's work on an answer: review it, skip it, take that back. Each is one transaction, with its audit entry.

What is typed is kept as a draft until it is submitted, and a submission that is refused leaves the draft as it is.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Literal

from sqlalchemy import delete, select, update
from sqlalchemy.engine import Connection, Engine, Row

from rlhf_loop.config import Settings
from rlhf_loop.domain import Review, ReviewerRole, field_values
from rlhf_loop.errors import ReviewChangedError
from rlhf_loop.reviewing.items import (
    MAX_COMMENT,
    ReviewItem,
    assigned_item,
    checked_correction,
    checked_rating,
    checked_text,
)
from rlhf_loop.reviewing.queue import lease
from rlhf_loop.store import audit
from rlhf_loop.store.engine import transaction, upsert
from rlhf_loop.store.interactions import lock, put_review, withdraw_review
from rlhf_loop.store.queries import find_review
from rlhf_loop.store.tables import AnswerScore, Assignment, Draft, Interaction

#: The fields of a review that do not belong to what it says.
_OF_AUTHOR = ("reviewer", "role", "reviewed_at")
#: For how long something can be undone: a session of work, not the day before.
_UNDONE_WITHIN = timedelta(hours=12)


class SeenReview(Enum):
    """The value of a caller who does not know which review the rater has seen."""

    UNKNOWN = "unknown"


def submit(
    engine: Engine,
    interaction_key: int,
    *,
    reviewer: str,
    review: Review,
    seen: datetime | Literal[SeenReview.UNKNOWN] | None = SeenReview.UNKNOWN,
    now: datetime | None = None,
) -> None:
    """Store the rater's review of an answer that they were given, or change it; the draft is gone then.

    It is stored as this expert's, given now. A correction that says the same as the answer is left out. Submitting the
    same again changes nothing. With `seen`, the time of the review that the rater saw or None for none, only that one
    is replaced.

    Raises:
        ReviewChangedError: there is another review by the rater than `seen` says, or none any more.
        ValueError: a bad rating, or text that is too long or cannot be stored; review and draft stay as they were.
        LookupError: there is no such answer, or it was not given to the rater.
    """
    now = now or datetime.now(UTC)
    checked_rating(review.rating)
    with transaction(engine) as connection:
        given = _locked_assignment(connection, interaction_key, reviewer)
        review = _checked(review, given.ai_response, reviewer=reviewer, now=now)
        before = find_review(connection, interaction_key, reviewer=reviewer)
        same = before is not None and _said(before) == _said(review)
        if not same and not is_seen(before, seen):
            what = f"graded this answer {before.rating}" if before else "took your review of this answer back"
            raise ReviewChangedError(
                f"You {what} in another window, so this grade was not stored. "
                f"The screen now shows that; press again to {'replace it' if before else 'grade it'}."
            )
        if not same:
            put_review(connection, interaction_key, review)
        if not same or given.state != "reviewed":
            earlier = None
            if before is not None and not same:
                earlier = _said(before) | {"reviewed_at": before.reviewed_at and before.reviewed_at.isoformat()}
            _set(
                connection,
                interaction_key,
                reviewer,
                state="reviewed",
                handled_at=now,
                earlier=earlier,
                not_my_field=False,
            )
        _delete_draft(connection, interaction_key, reviewer)
        # It waits no more: the queue's list of what the model is unsure of holds only what does.
        connection.execute(delete(AnswerScore).where(AnswerScore.interaction_key == interaction_key))


def is_seen(review: Review | None, seen: datetime | Literal[SeenReview.UNKNOWN] | None) -> bool:
    """Tell whether the review is the one that the rater saw, as far as that is known."""
    return seen is SeenReview.UNKNOWN or seen == (review.reviewed_at if review else None)


def skip(
    engine: Engine, interaction_key: int, *, reviewer: str, not_my_field: bool = False, now: datetime | None = None
) -> None:
    """Pass over an answer that the rater was given; it does not come again. A draft stays, and so does a review.

    With `not_my_field`, questions near to this one come to the rater after all others.

    Raises:
        LookupError: there is no such answer, or it was not given to the rater.
    """
    with transaction(engine) as connection:
        given = _locked_assignment(connection, interaction_key, reviewer)
        if given.state == "skipped":
            return
        if find_review(connection, interaction_key, reviewer=reviewer):
            # A change that was begun and not made. When the review itself was made is what undoing goes by.
            _set(connection, interaction_key, reviewer, state="reviewed")
            return
        moment = now or datetime.now(UTC)
        _set(
            connection,
            interaction_key,
            reviewer,
            state="skipped",
            handled_at=moment,
            earlier=None,
            not_my_field=not_my_field,
        )
        detail = {"not_my_field": True} if not_my_field else None
        audit.note(connection, reviewer, "answer.skipped", f"interaction:{interaction_key}", detail)


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
        select(Assignment.interaction_key)
        .where(
            Assignment.reviewer == reviewer, Assignment.handled_at > now - _UNDONE_WITHIN, Assignment.state != "open"
        )
        .order_by(Assignment.handled_at.desc(), Assignment.assigned_at.desc())
        .limit(1)
    )
    with transaction(engine) as connection:
        interaction_key = connection.execute(newest).scalar()
        if interaction_key is None:
            return None
        given = _locked_assignment(connection, interaction_key, reviewer)
        review = find_review(connection, interaction_key, reviewer=reviewer)
        if given.state == "skipped":
            audit.note(connection, reviewer, "answer.reopened", f"interaction:{interaction_key}")
        elif review is not None:
            if given.earlier is None:
                withdraw_review(connection, interaction_key, reviewer=reviewer)
            else:
                values = {**given.earlier, "reviewed_at": datetime.fromisoformat(given.earlier["reviewed_at"])}
                put_review(connection, interaction_key, Review(**values, reviewer=reviewer, role=ReviewerRole.EXPERT))
            _put_draft(connection, interaction_key, replace(review, reviewed_at=now))
        until = lease(settings or Settings(), now)
        _set(
            connection,
            interaction_key,
            reviewer,
            state="open",
            handled_at=None,
            earlier=None,
            not_my_field=False,
            leased_until=until,
        )
        return assigned_item(connection, interaction_key, reviewer=reviewer)


def save_draft(
    engine: Engine, interaction_key: int, *, reviewer: str, review: Review, now: datetime | None = None
) -> datetime:
    """Keep the review that the rater has typed so far, and return when that was; one with nothing in it is deleted.

    Raises:
        ValueError: a bad rating, or text that is too long or cannot be stored; the earlier draft stays.
        LookupError: there is no such answer, or it was not given to the rater.
    """
    now = now or datetime.now(UTC)
    if review.rating is not None:
        checked_rating(review.rating)
    with transaction(engine) as connection:
        given = _locked_assignment(connection, interaction_key, reviewer)
        draft = _checked(review, given.ai_response, reviewer=reviewer, now=now)
        if _said(draft) == _said(Review()):
            _delete_draft(connection, interaction_key, reviewer)
        else:
            _put_draft(connection, interaction_key, draft)
    return now


def _checked(review: Review, response: str, *, reviewer: str, now: datetime) -> Review:
    return replace(
        review,
        comment=checked_text("comment", review.comment, limit=MAX_COMMENT),
        correction=checked_correction(review.correction, response=response),
        reviewer=reviewer,
        role=ReviewerRole.EXPERT,
        reviewed_at=now,
    )


def _locked_assignment(connection: Connection, interaction_key: int, reviewer: str) -> Row[Any]:
    lock(connection, interaction_key)
    found = (
        select(Assignment.state, Assignment.earlier, Interaction.ai_response)
        .join(Interaction, Interaction.id == Assignment.interaction_key)
        .where(Assignment.reviewer == reviewer, Assignment.interaction_key == interaction_key)
    )
    row = connection.execute(found).one_or_none()
    if row is None:
        item = assigned_item(connection, interaction_key, reviewer=reviewer)
        moment = (item.review and item.review.reviewed_at) or datetime.now(UTC)
        values = {"reviewer": reviewer, "interaction_key": interaction_key, "state": item.state}
        values |= {"assigned_at": moment, "leased_until": moment}
        # Another request of the same person may have written it meanwhile.
        upsert(connection, Assignment, values, key=["reviewer", "interaction_key"], changed=())
        row = connection.execute(found).one()
    return row


def _set(connection: Connection, interaction_key: int, reviewer: str, **values: Any) -> None:
    mine = (Assignment.reviewer == reviewer, Assignment.interaction_key == interaction_key)
    connection.execute(update(Assignment).where(*mine).values(**values))


def _said(review: Review) -> dict[str, Any]:
    """Return the review without its author and time."""
    return {name: value for name, value in field_values(review).items() if name not in _OF_AUTHOR}


def _put_draft(connection: Connection, interaction_key: int, draft: Review) -> None:
    values = {
        "reviewer": draft.reviewer,
        "interaction_key": interaction_key,
        **_said(draft),
        "saved_at": draft.reviewed_at,
    }
    upsert(connection, Draft, values, key=["reviewer", "interaction_key"])


def _delete_draft(connection: Connection, interaction_key: int, reviewer: str) -> None:
    connection.execute(delete(Draft).where(Draft.reviewer == reviewer, Draft.interaction_key == interaction_key))
