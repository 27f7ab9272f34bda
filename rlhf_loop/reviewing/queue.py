"""The review queue: the answer that a rater gets next, and the ones before it.

An answer is leased: while a rater looks at it, nobody else gets it, unless it is to have several raters. A lease that
ran out frees the answer; if nobody took it until its rater comes back, that rater goes on where they were. While
somebody reads an answer, the one after it may be fetched ahead: its lease ends just before that of the one that is
read, so that it comes second wherever the rater goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import and_, exists, func, insert, or_, select, update
from sqlalchemy.engine import Connection, Engine

from rlhf_loop.config import Settings
from rlhf_loop.domain import ReviewerRole
from rlhf_loop.reviewing.candidates import (
    QueueCandidate,
    Rater,
    all_that_waits,
    candidates,
    fields,
    prompts,
    servings,
    wanted,
)
from rlhf_loop.reviewing.items import ReviewItem, assigned_item
from rlhf_loop.store.engine import reading, transaction
from rlhf_loop.store.interactions import group_name
from rlhf_loop.store.tables import LARGEST_ID, Assignment, Interaction, Review

#: How many questions are compared with those of other fields at a time.
_COMPARED = 16
#: How often to look anew when others took all that was found.
_ATTEMPTS = 5
#: How many of the answers that were found last are waited for, if somebody holds their rows.
_WAITED_FOR = 20
#: How many of the rater's newest answers may still be open.
_OPEN_AMONG = 50
#: By how much earlier the lease of an answer that is fetched ahead ends than that of the one before it.
_AHEAD = timedelta(seconds=1)
#: Tells of each of some questions whether it is like the first of two other lists of them, and less like the second.
OutOfField = Callable[[Sequence[str], Sequence[str], Sequence[str]], Sequence[bool]]
#: The id of an answer that is locked, and the name of its question.
_Question = tuple[int, str]


def next_item(
    engine: Engine,
    *,
    reviewer: str,
    settings: Settings,
    ahead_of: int | None = None,
    out_of_field: OutOfField | None = None,
    now: datetime | None = None,
) -> ReviewItem | None:
    """Give the rater an answer, None if none is left.

    One that the rater has open comes first, so that a page that is loaded again shows the same; else the best one.
    With `ahead_of`, the answer that the rater reads now, it is the one to come after that; both are leased anew. With
    `out_of_field`, questions that it calls like those that the rater skipped as none of their field come last.

    Raises:
        LookupError: the answer `ahead_of` was not given to the rater.
    """
    now = now or datetime.now(UTC)
    rater = Rater(name=reviewer, now=now, previous=_newest(engine, reviewer), until=lease(settings, now))
    if ahead_of is not None:
        renew(engine, ahead_of, reviewer=reviewer, settings=settings, now=now)
        rater = replace(rater, until=rater.until - _AHEAD)
    if item := _resumed(engine, rater, settings, ahead_of):
        return item
    with reading(engine) as connection:
        others_field, own_field = fields(connection, reviewer) if out_of_field else ((), ())
    for _ in range(_ATTEMPTS):
        last = []
        for look in (candidates, all_that_waits):
            with reading(engine) as connection:
                found = look(connection, rater, settings)
                asked = prompts(connection, found) if others_field else []
            # Some at a time: most often one of the first is given, and the vectors of new questions take a while.
            size = _COMPARED if out_of_field and asked else max(1, len(found))
            for place in range(0, len(found), size):
                some = found[place : place + size]
                if out_of_field and asked:
                    out = out_of_field(asked[place : place + size], others_field, own_field)
                    last += [each for each, far in zip(some, out, strict=True) if far]
                    some = [each for each, far in zip(some, out, strict=True) if not far]
                if item := _first_free(engine, some, rater, settings):
                    return item
        if item := _first_free(engine, last, rater, settings):
            return item
        if not found and not last:
            break
    # Of two requests of the rater at one moment, the other one may have got the last answer.
    return _resumed(engine, rater, settings, ahead_of)


def item(engine: Engine, interaction_key: int, *, reviewer: str) -> ReviewItem:
    """Return an answer that was given to the rater, or that they reviewed elsewhere, as by an import.

    Raises:
        LookupError: neither.
    """
    with reading(engine) as connection:
        return assigned_item(connection, interaction_key, reviewer=reviewer)


def previous_item(engine: Engine, interaction_key: int | None, *, reviewer: str) -> ReviewItem | None:
    """Return the answer that the rater was given before that one, None at the beginning.

    Without an id it is the newest that the rater reviewed or skipped.

    Raises:
        LookupError: that answer was not given to the rater.
    """
    before = select(Assignment.interaction_key).where(Assignment.reviewer == reviewer)
    before = before.order_by(Assignment.assigned_at.desc(), Assignment.interaction_key.desc()).limit(1)
    with reading(engine) as connection:
        if interaction_key is None:
            before = before.where(Assignment.state != "open")
        else:
            given = _assigned_at(connection, interaction_key, reviewer)
            same_moment = and_(Assignment.assigned_at == given, Assignment.interaction_key < interaction_key)
            before = before.where(or_(Assignment.assigned_at < given, same_moment))
        found = connection.execute(before).scalar()
        return None if found is None else assigned_item(connection, found, reviewer=reviewer)


def following_item(engine: Engine, interaction_key: int, *, reviewer: str) -> ReviewItem | None:
    """Return the answer that the rater was given after that one, None at the end.

    Raises:
        LookupError: that answer was not given to the rater.
    """
    with reading(engine) as connection:
        given = _assigned_at(connection, interaction_key, reviewer)
        same_moment = and_(Assignment.assigned_at == given, Assignment.interaction_key > interaction_key)
        after = (
            select(Assignment.interaction_key)
            .where(Assignment.reviewer == reviewer, or_(Assignment.assigned_at > given, same_moment))
            .order_by(Assignment.assigned_at, Assignment.interaction_key)
            .limit(1)
        )
        found = connection.execute(after).scalar()
        return None if found is None else assigned_item(connection, found, reviewer=reviewer)


def renew(
    engine: Engine, interaction_key: int, *, reviewer: str, settings: Settings, now: datetime | None = None
) -> None:
    """Keep an open answer from others for another while; one that was reviewed or skipped stays as it is.

    Raises:
        LookupError: the answer was not given to the rater.
    """
    until = lease(settings, now or datetime.now(UTC))
    with transaction(engine) as connection:
        _assigned_at(connection, interaction_key, reviewer)
        mine = (Assignment.reviewer == reviewer, Assignment.interaction_key == interaction_key)
        connection.execute(
            update(Assignment)
            .where(*mine, Assignment.state == "open", Assignment.leased_until < until)
            .values(leased_until=until)
        )


def lease(settings: Settings, now: datetime) -> datetime:
    """Return until when an answer that is given now is kept from others."""
    return now + timedelta(minutes=settings.review_lease_minutes)


def _assigned_at(connection: Connection, interaction_key: int, reviewer: str) -> datetime:
    mine = (Assignment.reviewer == reviewer, Assignment.interaction_key == interaction_key)
    given = select(Assignment.assigned_at).where(*mine)
    found = connection.execute(given).scalar() if interaction_key <= LARGEST_ID else None
    if found is None:
        # Of a review that came by an import, it was then.
        review = assigned_item(connection, interaction_key, reviewer=reviewer).review
        found = review.reviewed_at if review else None
    return found or datetime.now(UTC)


def _newest(engine: Engine, reviewer: str) -> int | None:
    newest = select(Assignment.interaction_key).where(Assignment.reviewer == reviewer)
    newest = newest.order_by(Assignment.assigned_at.desc(), Assignment.interaction_key.desc()).limit(1)
    with reading(engine) as connection:
        return connection.execute(newest).scalar()


def _open(connection: Connection, reviewer: str) -> list[int]:
    """Return the open ones among the rater's newest answers, the one leased last first."""
    newest = (
        select(Assignment.interaction_key, Assignment.state, Assignment.leased_until)
        .where(Assignment.reviewer == reviewer)
        .order_by(Assignment.assigned_at.desc())
        .limit(_OPEN_AMONG)
        .subquery()
    )
    found = select(newest.c.interaction_key).where(newest.c.state == "open").order_by(newest.c.leased_until.desc())
    return list(connection.execute(found).scalars())


def _resumed(engine: Engine, rater: Rater, settings: Settings, ahead_of: int | None) -> ReviewItem | None:
    """Give the rater an answer again that they have open, None if there is none but `ahead_of`."""
    with reading(engine) as connection:
        mine = _open(connection, rater.name)
    for interaction_key in mine:
        with transaction(engine) as connection:
            if interaction_key != ahead_of and _resume(connection, interaction_key, rater, settings):
                return assigned_item(connection, interaction_key, reviewer=rater.name)
    return None


def _resume(connection: Connection, interaction_key: int, rater: Rater, settings: Settings) -> bool:
    """Lease an answer that the rater has open for another while; False if others have taken its place meanwhile."""
    mine = (Assignment.reviewer == rater.name, Assignment.interaction_key == interaction_key)
    row = _lock(connection, interaction_key, wait=True)
    until = connection.execute(select(Assignment.leased_until).where(*mine, Assignment.state == "open")).scalar()
    if row is None or until is None:
        return False
    if until <= rater.now and not _is_free(connection, row, rater, settings, again=True):
        return False
    connection.execute(update(Assignment).where(*mine).values(leased_until=max(until, rater.until)))
    return True


def _first_free(engine: Engine, found: Sequence[QueueCandidate], rater: Rater, settings: Settings) -> ReviewItem | None:
    """Give the rater the first of these that is still free, None if none is."""
    held = []
    with transaction(engine) as connection:
        for one in found:
            # What was found by a review may be a later serving; all who want the same answer have to lock the same row.
            first = servings(connection, one.interaction_key, limit=1)
            if not first:
                continue
            each = QueueCandidate(first[0], one.why)
            row = _lock(connection, each.interaction_key, wait=False)
            if row is None:
                held.append(each)
            elif item := _take(connection, row, each, rater, settings):
                return item
    # Whoever holds a row may be somebody who only rates. They are waited for one by one: with other rows locked, two
    # who wait could wait for each other.
    for each in held[:_WAITED_FOR]:
        with transaction(engine) as connection:
            row = _lock(connection, each.interaction_key, wait=True)
            if row is not None and (item := _take(connection, row, each, rater, settings)):
                return item
    return None


def _lock(connection: Connection, interaction_key: int, *, wait: bool) -> _Question | None:
    """Lock the answer as reviews do; None if it is gone, or, without `wait`, if somebody holds it."""
    locked = select(Interaction.id, Interaction.candidate_group, Interaction.user_prompt)
    locked = locked.where(Interaction.id == interaction_key).with_for_update(key_share=True, skip_locked=not wait)
    row = connection.execute(locked).one_or_none()
    return None if row is None else (row.id, group_name(row.candidate_group, row.user_prompt))


def _take(
    connection: Connection, row: _Question, found: QueueCandidate, rater: Rater, settings: Settings
) -> ReviewItem | None:
    if not _is_free(connection, row, rater, settings):
        return None
    values = {
        "reviewer": rater.name,
        "interaction_key": found.interaction_key,
        "why": str(found.why),
        "assigned_at": rater.now,
        "leased_until": rater.until,
    }
    connection.execute(insert(Assignment), values)
    return assigned_item(connection, found.interaction_key, reviewer=rater.name)


def _is_free(connection: Connection, row: _Question, rater: Rater, settings: Settings, *, again: bool = False) -> bool:
    """Tell whether the rater may be given the answer: to be asked once the row is locked.

    Reviews and leases of the same answer in other servings count as well. `again` is for an answer that the rater was
    given before.
    """
    interaction_key, question = row
    same = servings(connection, interaction_key)
    given = select(Assignment.interaction_key).where(
        Assignment.interaction_key.in_(same), Assignment.reviewer == rater.name
    )
    if again:
        given = given.where(Assignment.interaction_key != interaction_key)
    if connection.execute(given.limit(1)).scalar() is not None:
        return False
    counted = connection.execute(
        select(Review.reviewer, Review.rating, Review.role).where(Review.interaction_key.in_(same))
    ).all()
    if rater.name in {review.reviewer for review in counted}:
        return False
    ratings = [review.rating for review in counted if review.role == ReviewerRole.EXPERT]
    reviewed = exists(
        select(1).where(Review.interaction_key == Assignment.interaction_key, Review.reviewer == Assignment.reviewer)
    )
    leases = connection.execute(
        select(func.count()).where(
            Assignment.interaction_key.in_(same),
            Assignment.reviewer != rater.name,
            Assignment.state == "open",
            Assignment.leased_until > rater.now,
            ~reviewed,
        )
    ).scalar_one()
    experts = len({review.reviewer for review in counted if review.role == ReviewerRole.EXPERT})
    spread = max(ratings) - min(ratings) if ratings else 0
    return experts + leases < wanted(question, experts=experts, spread=spread, settings=settings)
