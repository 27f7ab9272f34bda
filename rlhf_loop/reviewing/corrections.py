"""Corrections and flags for admins: an approved correction becomes a candidate answer, a flag marks a harmful one.

A decision holds for the words that the admin saw. If the expert changes them, the correction waits again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Integer, and_, delete, extract, func, literal_column, select, update
from sqlalchemy.engine import Connection, Engine, Row

from rlhf_loop import domain
from rlhf_loop.reviewing.candidates import nobodys_field
from rlhf_loop.reviewing.items import MAX_CORRECTION
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
from rlhf_loop.utils.text import blank, unstorable, visible
from rlhf_loop.utils.translation import Message

#: What waits for an admin is counted so far.
MOST_TO_DECIDE = 100

State = Literal["pending", "approved", "rejected"]

_DECIDED = and_(CorrectionDecision.review_id == Review.id, CorrectionDecision.correction == Review.correction)
#: As the index of these has it, with its order: nobody has decided about the words that are there, or they are gone.
_UNDECIDED = Review.decided.is_distinct_from(Review.correction)
_NEWEST_UNDECIDED = literal_column("rlhf_reviews.id + 0", Integer).desc()
_PENDING = and_(_UNDECIDED, Review.correction.is_not(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """A review with a better answer to a question; `approved` is None until an admin has decided about these words.

    `edited` are the words that were approved in their place.
    """

    review_id: int
    interaction_key: int
    interaction_id: str
    prompt: str
    response: str
    review: domain.Review
    approved: bool | None
    decided_by: str | None
    decided_at: datetime | None
    edited: str | None = None

    @property
    def correction(self) -> str:
        """The better answer, as it was approved."""
        return self.edited or self.review.correction or ""

    @property
    def digest(self) -> str:
        """A hash of the expert's words, by which it is known whether they are those that an admin saw."""
        return _digest(self.review.correction or "")


@dataclass(frozen=True, slots=True)
class LastDecisions:
    """Decisions that an admin took at one time, which can be taken back together."""

    decided_at: datetime
    approved: bool
    count: int


@dataclass(frozen=True, slots=True)
class ApprovedStamp:
    """A value that differs whenever the approved corrections do."""

    count: int
    ids: int
    newest: datetime | None
    seconds: int


def corrections(
    engine: Engine,
    *,
    state: State | None = None,
    before: int | None = None,
    limit: int = 50,
    ids: Sequence[int] | None = None,
) -> list[Correction]:
    """Return corrections, the newest review first; `before` is the review's id of the last one already seen.

    With `ids` they are those of these reviews alone.
    """
    upper = min(before or LARGEST_ID, LARGEST_ID)
    wanted = _all().where(Review.id < upper).limit(limit)
    among = None if ids is None else [id for id in ids if id <= LARGEST_ID]
    if among is not None:
        wanted = wanted.where(Review.id.in_(among))
    if state == "pending":
        wanted = wanted.where(_PENDING).order_by(_NEWEST_UNDECIDED)
    with reading(engine) as connection:
        if state in ("approved", "rejected"):
            return _decided(connection, approved=state == "approved", before=upper, limit=limit, among=among)
        return [_correction(row) for row in connection.execute(wanted.order_by(Review.id.desc()))]


def _decided(
    connection: Connection, *, approved: bool, before: int, limit: int, among: Sequence[int] | None
) -> list[Correction]:
    """Return what was decided so, as far as it holds: of a join PostgreSQL would read all, to sort it."""
    of, found = CorrectionDecision, list[Correction]()
    newest = select(of.review_id).where(of.approved.is_(approved)).order_by(of.review_id.desc()).limit(limit)
    if among is not None:
        newest = newest.where(of.review_id.in_(among))
    while len(found) < limit:
        some = connection.execute(newest.where(of.review_id < before)).scalars().all()
        rows = connection.execute(_all().where(Review.id.in_(some), ~_UNDECIDED).order_by(Review.id.desc()))
        found += map(_correction, rows)
        if len(some) < limit:
            break
        before = some[-1]
    return found[:limit]


def decide(
    engine: Engine,
    review_id: int,
    *,
    approved: bool,
    correction: str,
    decided_by: str,
    edited: str | None = None,
    now: datetime | None = None,
) -> None:
    """Approve or reject the correction in a review; `correction` is the text that the admin saw.

    `edited` are words that are approved in its place.

    Raises:
        LookupError: there is no such review any more, or no correction in it.
        ValueError: the correction is another one by now, or what is to be approved cannot be stored.
    """
    if edited is not None and (blank(edited) or unstorable(edited) or len(edited) > MAX_CORRECTION):
        raise ValueError(
            Message(
                "The edited text is empty, longer than {n:,} characters, or cannot be stored. Change it.",
                n=MAX_CORRECTION,
            )
        )
    with transaction(engine) as connection:
        _decide(connection, review_id, approved, _digest(correction), decided_by, edited, now or datetime.now(UTC))


def decide_all(
    engine: Engine, seen: Mapping[int, str], *, approved: bool, decided_by: str, now: datetime | None = None
) -> int:
    """Approve or reject the corrections in several reviews, given with the digests of what the admin saw; or none.

    Raises:
        LookupError, ValueError: as `decide`; then nothing is decided.
    """
    now = now or datetime.now(UTC)
    with transaction(engine) as connection:
        # In their order, so that two admins do not wait for each other.
        for review_id in sorted(seen):
            _decide(connection, review_id, approved, seen[review_id], decided_by, None, now)
    return len(seen)


def last_decisions(engine: Engine, *, decided_by: str) -> LastDecisions | None:
    """Return what an admin decided last at one time, None if there is nothing."""
    of = CorrectionDecision
    newest = select(of.decided_at).where(of.decided_by == decided_by).order_by(of.decided_at.desc()).limit(1)
    wanted = (
        select(of.decided_at, of.approved, func.count().label("decisions"))
        .where(of.decided_by == decided_by, of.decided_at == newest.scalar_subquery())
        .group_by(of.decided_at, of.approved)
        .order_by(of.approved)
        .limit(1)
    )
    with reading(engine) as connection:
        row = connection.execute(wanted).one_or_none()
    return None if row is None else LastDecisions(row.decided_at, row.approved, row.decisions)


def undo_decisions(engine: Engine, *, decided_by: str, decided_at: datetime) -> int:
    """Take back what an admin decided at that time, and return how many; decisions of before hold again.

    Raises:
        LookupError: there is nothing, as somebody has decided anew.
    """
    mine = and_(CorrectionDecision.decided_by == decided_by, CorrectionDecision.decided_at == decided_at)
    with transaction(engine) as connection:
        # Reviews before decisions, as whoever deletes a review does: else two could wait for each other.
        theirs = select(CorrectionDecision.review_id).where(mine)
        connection.execute(select(Review.id).where(Review.id.in_(theirs)).order_by(Review.id).with_for_update())
        rows = connection.execute(
            select(*CorrectionDecision.__table__.columns).where(mine).order_by(CorrectionDecision.review_id)
        ).all()
        for row in rows:
            here = CorrectionDecision.review_id == row.review_id
            if row.former:
                former = {**row.former, "decided_at": datetime.fromisoformat(row.former["decided_at"])}
                connection.execute(update(CorrectionDecision).where(here).values(former))
            else:
                connection.execute(delete(CorrectionDecision).where(here))
            audit.note(connection, decided_by, "correction.undone", f"review:{row.review_id}")
        if not rows:
            raise LookupError(Message("There is nothing to undo: it was decided anew since. Reload the list."))
    return len(rows)


def _digest(correction: str) -> str:
    return hashlib.sha256(visible(correction).encode("utf-8", "replace")).hexdigest()


def _decide(
    connection: Connection,
    review_id: int,
    approved: bool,
    digest: str,
    decided_by: str,
    edited: str | None,
    now: datetime,
) -> None:
    present = _present(connection, review_id)
    if present is None or present.correction is None:
        raise LookupError(f"There is no correction in review {review_id}. It may have been withdrawn; reload the list.")
    if _digest(present.correction) != digest:
        raise ValueError(Message("The correction was changed while you read it. Read it again, and decide then."))
    if edited is not None and (not approved or _digest(edited) == digest):
        edited = None
    before = connection.execute(
        select(*CorrectionDecision.__table__.columns).where(CorrectionDecision.review_id == review_id)
    ).one_or_none()
    kept = ("correction", "approved", "decided_by", "edited", "former")
    decision = {
        "review_id": review_id,
        "correction": present.correction,
        "approved": approved,
        "decided_by": decided_by,
        "decided_at": now,
        "edited": edited,
        "former": before
        and {**{name: getattr(before, name) for name in kept}, "decided_at": before.decided_at.isoformat()},
    }
    upsert(connection, CorrectionDecision, decision, key=["review_id"])
    action = "correction.approved" if approved else "correction.rejected"
    detail = {"interaction": present.interaction_key} | ({} if edited is None else {"edited": True})
    audit.note(connection, decided_by, action, f"review:{review_id}", detail)


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
            # One that was undone may have been decided before the newest.
            func.coalesce(func.sum(extract("epoch", CorrectionDecision.decided_at)), 0),
        )
        .join(Review, _DECIDED)
        .where(CorrectionDecision.approved.is_(True))
    )
    with reading(engine) as connection:
        count, ids, newest, seconds = connection.execute(wanted).one()
    return ApprovedStamp(int(count), int(ids), newest, int(seconds))


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
            Interaction.external_id,
            Interaction.user_prompt,
            Interaction.ai_response,
            *REVIEW_COLUMNS,
            CorrectionDecision.approved,
            CorrectionDecision.decided_by,
            CorrectionDecision.decided_at,
            CorrectionDecision.edited,
        )
        .join(Interaction, Interaction.id == Review.interaction_key)
        .join(CorrectionDecision, _DECIDED, isouter=True)
        .where(Review.correction.is_not(None))
    )


def _correction(row: Row[Any]) -> Correction:
    return Correction(
        review_id=row.id,
        interaction_key=row.interaction_key,
        interaction_id=row.external_id,
        prompt=row.user_prompt,
        response=row.ai_response,
        review=review_of(row),
        approved=row.approved,
        decided_by=row.decided_by,
        decided_at=row.decided_at,
        edited=row.edited,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A review that flags an answer as harmful, and where the answer comes from."""

    review_id: int
    interaction_id: str
    prompt: str
    response: str
    origin: domain.Origin
    review: domain.Review


@dataclass(frozen=True, slots=True, kw_only=True)
class ToDecide:
    """Numbers of things that wait for an admin, each counted up to `MOST_TO_DECIDE`."""

    corrections: int
    flags: int
    nobodys_field: int


def to_decide(engine: Engine) -> ToDecide:
    """Count what waits for an admin."""
    most = MOST_TO_DECIDE
    nobodys = len(nobodys_field(engine, limit=most))
    with reading(engine) as connection:

        def count(wanted: Any) -> int:
            return connection.execute(select(func.count()).select_from(wanted.limit(most).subquery())).scalar_one()

        return ToDecide(
            corrections=count(select(Review.id).where(_PENDING).order_by(_NEWEST_UNDECIDED)),
            flags=count(select(Review.id).where(Review.harmful)),
            nobodys_field=nobodys,
        )


def flags(engine: Engine, *, before: int | None = None, limit: int = 50) -> list[Flag]:
    """Return the flags, the newest review first; `before` is the review's id of the last one already seen."""
    wanted = (
        select(
            Review.id,
            Interaction.external_id,
            Interaction.user_prompt,
            Interaction.ai_response,
            *ORIGIN_COLUMNS,
            *REVIEW_COLUMNS,
        )
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
                interaction_id=row.external_id,
                prompt=row.user_prompt,
                response=row.ai_response,
                origin=origin_of(row),
                review=review_of(row),
            )
            for row in connection.execute(wanted)
        ]
