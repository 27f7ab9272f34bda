"""Feedback, one piece at a time: its answer is found by the id or the texts, or is new.

An answer without an id of its own has the name that an import gives it, so that feedback and files know the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection

from rlhf_loop import domain
from rlhf_loop.domain import Rating, ReviewerRole, rating_fields
from rlhf_loop.exchange.formats.messages import is_read_from
from rlhf_loop.exchange.staging import identity
from rlhf_loop.store import audit, interactions
from rlhf_loop.store.interactions import (
    lock,
    put_interactions,
    put_review,
    stored_role,
    withdraw_preference,
    withdraw_review,
)
from rlhf_loop.store.queries import find_key, find_review
from rlhf_loop.store.tables import AuditEntry, Interaction, Preference, Review
from rlhf_loop.store.validation import cleaned

_RECEIVED, _DELETED = "annotation.received", "annotation.deleted"
#: Targets in one query.
_AT_ONCE = 500


class Fate(StrEnum):
    """The fate of a review or preference: `KEPT` is the one that was there, as it says the same or is newer."""

    ADDED = "added"
    REPLACED = "replaced"
    KEPT = "kept"


@dataclass(frozen=True, slots=True, order=True)
class AnnotationTarget:
    """The review of one answer, or the preference between two, that another tool's annotation became.

    Of two, the one with the smaller number comes first, whichever is better.
    """

    reviewer: str
    answers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AnnotationHistory:
    """The history of another tool's annotation: if it was deleted, when it last spoke, and what is there of it."""

    deleted: bool
    last_at: datetime | None
    became: tuple[AnnotationTarget, ...]

    def is_late(self, at: datetime | None) -> bool:
        """Tell whether what was said at that moment was overtaken by what came since."""
        return self.deleted or (at is not None and self.last_at is not None and at < self.last_at)


class OtherTextsError(ValueError):
    """The id is of an answer that says something else."""


def find_answer(connection: Connection, rating: Rating) -> int | None:
    """Return the key of the answer that a rating is about, None if it is not there.

    Raises:
        OtherTextsError: another answer has its `external_id`.
    """
    key = find_key(connection, answer_id(rating))
    if key is None:
        return None
    wanted = select(Interaction.id, Interaction.user_prompt, Interaction.ai_response)
    row = connection.execute(wanted.where(Interaction.id == key)).one()
    texts = ((row.user_prompt, rating.user_prompt), (row.ai_response, rating.ai_response))
    if not all(is_read_from(there, here) for there, here in texts):
        raise OtherTextsError(
            f"The interaction {answer_id(rating)[:100]!r} has another prompt or response than this feedback. Send it "
            "without them to rate that one, or with another id."
        )
    return int(row.id)


def answer_id(rating: Rating) -> str:
    """Return the id of the answer that a rating is about."""
    return identity(rating, source=rating.source)


def add_answer(connection: Connection, rating: Rating, *, actor: str) -> int:
    """Store the answer that a rating is about, without the rating; return its key.

    Where somebody else adds it in the same moment, it is theirs.

    Raises:
        ValueError: it cannot be stored.
    """
    answer = replace(rating, external_id=answer_id(rating), **rating_fields(domain.Review()))
    try:
        with connection.begin_nested():
            [interaction_key] = put_interactions(connection, [answer])
    except ValueError:
        if (found := find_answer(connection, rating)) is not None:
            return found
        raise
    audit.note(connection, actor, "interactions.added", f"interaction:{interaction_key}", {"count": 1})
    return interaction_key


def take_review(
    connection: Connection, interaction_key: int, review: domain.Review, *, now: datetime | None = None
) -> Fate:
    """Store a named reviewer's review of an answer, unless it is known, or older than what they said since.

    Of one that is known only a later time is stored, so that what was said in between comes too late. The time is never
    in the future: a clock that is wrong would keep out all that comes later.

    Raises:
        ValueError: it cannot be stored.
        LookupError: there is no such answer.
    """
    at = None if review.reviewed_at is None else min(review.reviewed_at, now or datetime.now(UTC))
    review = replace(_cleaned(review), reviewed_at=at)
    lock(connection, interaction_key)
    known = find_review(connection, interaction_key, reviewer=review.reviewer or "")
    if known is not None and known.reviewed_at is not None:
        if at is not None and known.reviewed_at > at:
            return Fate.KEPT
        if replace(_cleaned(known), reviewed_at=at) == review:
            if at is not None and known.reviewed_at < at:
                mine = (Review.interaction_key == interaction_key) & (Review.reviewer == review.reviewer)
                connection.execute(update(Review).where(mine).values(reviewed_at=at))
            return Fate.KEPT
    put_review(connection, interaction_key, review)
    return Fate.ADDED if known is None else Fate.REPLACED


def _cleaned(review: domain.Review) -> domain.Review:
    return cleaned(Rating("-", "-", **rating_fields(review))).review


def take_preference(
    connection: Connection,
    better: int,
    worse: int,
    *,
    reviewer: str,
    role: ReviewerRole,
    preferred_at: datetime | None = None,
) -> Fate:
    """Store which of two answers a reviewer finds better, unless it is known, or older than what they said since.

    As with reviews, `preferred_at` is never in the future, and of one that is known only a later one is stored.

    Raises:
        ValueError: they answer different questions, or are the same.
        LookupError: one of them is not there.
    """
    first, second = sorted((better, worse))
    for id in (first, second):
        lock(connection, id)
    mine = (Preference.first_id == first) & (Preference.second_id == second) & (Preference.reviewer == reviewer)
    wanted = select(Preference.preferred, Preference.role, Preference.comment, Preference.preferred_at).where(mine)
    known = connection.execute(wanted).one_or_none()
    at = preferred_at and min(preferred_at, datetime.now(UTC))
    comment = None
    if known is not None:
        if at is not None and known.preferred_at > at:
            return Fate.KEPT
        if known.preferred == ("first" if better == first else "second"):
            if known.role == role:
                if at is not None:
                    connection.execute(update(Preference).where(mine).values(preferred_at=at))
                return Fate.KEPT
            comment = known.comment
    new = interactions.put_preference(
        connection, better, worse, reviewer=reviewer, role=role, comment=comment, preferred_at=at
    )
    return Fate.ADDED if new else Fate.REPLACED


def note_annotation(
    connection: Connection, target: str, became: Sequence[AnnotationTarget], *, at: datetime | None, actor: str
) -> None:
    """Note what another tool's annotation became, and when it was said there.

    The audit log has it, as that is what it is for; it is looked up there when the annotation changes or goes.
    """
    known = [{"reviewer": each.reviewer, "answers": list(each.answers)} for each in became]
    audit.note(connection, actor, _RECEIVED, target, {"at": at.isoformat() if at else None, "became": known})


def note_deleted(connection: Connection, targets: Sequence[str], *, actor: str) -> None:
    """Note that annotations are gone: what still comes of them was sent before, and is late."""
    values = [{"actor": actor, "action": _DELETED, "target": target} for target in targets]
    if values:
        connection.execute(insert(AuditEntry), values)


def past(connection: Connection, target: str) -> AnnotationHistory:
    """Return what is known of an annotation."""
    wanted = select(AuditEntry.action, AuditEntry.detail).where(AuditEntry.target == target)
    rows = connection.execute(wanted.where(AuditEntry.action.in_((_RECEIVED, _DELETED)))).all()
    times = [datetime.fromisoformat(row.detail["at"]) for row in rows if row.detail and row.detail.get("at")]
    return AnnotationHistory(
        any(row.action == _DELETED for row in rows),
        max(times, default=None),
        _there(connection, [row.detail for row in rows if row.detail]),
    )


def annotated(connection: Connection, targets: Sequence[str]) -> tuple[AnnotationTarget, ...]:
    """Return what annotations became that is still there."""
    wanted = select(AuditEntry.detail).where(AuditEntry.action == _RECEIVED)
    details = list[Mapping[str, Any] | None]()
    for start in range(0, len(targets), _AT_ONCE):
        some = targets[start : start + _AT_ONCE]
        details += connection.execute(wanted.where(AuditEntry.target.in_(some))).scalars()
    return _there(connection, [detail for detail in details if detail])


def _there(connection: Connection, details: Iterable[Mapping[str, Any]]) -> tuple[AnnotationTarget, ...]:
    # Entries of old have one word each, and no time.
    words = [each for detail in details for each in detail.get("became", [detail])]
    every = {AnnotationTarget(each["reviewer"], tuple(sorted(each["answers"]))) for each in words}
    return tuple(each for each in sorted(every) if annotated_role(connection, each) is not None)


def is_newer(connection: Connection, found: AnnotationTarget, *, than: datetime | None) -> bool:
    """Tell whether the review or preference was given after that moment."""
    if than is None:
        return False
    if len(found.answers) == 2:
        first, second = found.answers
        pair = (Preference.first_id == first) & (Preference.second_id == second)
        wanted = select(Preference.preferred_at).where(pair, Preference.reviewer == found.reviewer)
    else:
        mine = (Review.interaction_key == found.answers[0]) & (Review.reviewer == found.reviewer)
        wanted = select(Review.reviewed_at).where(mine)
    at = connection.execute(wanted).scalar()
    return at is not None and at > than


def annotated_role(connection: Connection, found: AnnotationTarget) -> ReviewerRole | None:
    """Return the role with which it is stored, None if it is there no longer."""
    try:
        if len(found.answers) == 2:
            return interactions.stored_preference_role(connection, *found.answers, found.reviewer)
        return stored_role(connection, found.answers[0], found.reviewer)
    except LookupError:
        # The answer is gone, and all that was said of it.
        return None


def withdraw(connection: Connection, found: AnnotationTarget) -> None:
    """Take back what an annotation became.

    Raises:
        LookupError: it is not there any more.
    """
    if len(found.answers) == 2:
        withdraw_preference(connection, *found.answers, reviewer=found.reviewer)
    else:
        withdraw_review(connection, found.answers[0], reviewer=found.reviewer)
