"""Do the experts keep up? Answers that wait for a review now, and how many more than a week ago."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import case, exists, func, select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import aliased

from rlhf_loop.domain import ReviewerRole
from rlhf_loop.reviewing.candidates import stands_for_all
from rlhf_loop.store.engine import reading
from rlhf_loop.store.tables import Interaction, Review

#: Over which the growth is counted.
GROWTH = timedelta(days=7)
#: The newest answers that wait, and the newest reviews, that are looked at: with millions of them, too, it is quick.
_LOOKED_AT, _ENOUGH_REVIEWS = 20_000, 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """Answers that `waiting` counts may be given to raters; `more` says that there are more, which were not counted.

    `growth` is how many more they are than a week ago, below 0 where they are fewer.
    """

    waiting: int
    more: bool
    growth: int


def backlog(engine: Engine, *, now: datetime, at_least: int = 0) -> Backlog:
    """Count what waits, to some 20,000, or further if `at_least` is more than half of that."""
    since = now - GROWTH
    looked_at = max(_LOOKED_AT, 2 * at_least)
    newest = select(Interaction.id).where(Interaction.rating.is_(None)).order_by(Interaction.id.desc()).limit(looked_at)
    stretch = newest.subquery()
    new = func.sum(case((Interaction.created_at >= since, 1), else_=0))
    free = (
        select(func.count(), new)
        .join(stretch, stretch.c.id == Interaction.id)
        .where(stands_for_all(), Interaction.created_at <= now)
    )
    with reading(engine) as connection:
        waiting, came = connection.execute(free).one()
        more = connection.execute(select(func.count()).select_from(stretch)).scalar_one() == looked_at
        rated = _rated(connection, since, now)
    # What came and was rated in these days changed nothing; so only the others count.
    return Backlog(waiting=waiting, more=more, growth=(came or 0) - rated)


def _rated(connection: Connection, since: datetime, now: datetime) -> int:
    """Count the answers that waited at that time and that an expert has rated since."""
    newest = (
        select(Review.interaction_id, Review.reviewed_at)
        .where(Review.role == ReviewerRole.EXPERT)
        .order_by(Review.id.desc())
        .limit(_ENOUGH_REVIEWS)
        .subquery()
    )
    earlier = aliased(Review)
    rated_before = exists(
        select(1).where(
            earlier.interaction_id == Interaction.id,
            earlier.role == ReviewerRole.EXPERT,
            earlier.reviewed_at < since,
        )
    )
    rated = (
        select(func.count(Interaction.id.distinct()))
        .join(newest, newest.c.interaction_id == Interaction.id)
        .where(
            newest.c.reviewed_at >= since, newest.c.reviewed_at <= now, Interaction.created_at < since, ~rated_before
        )
    )
    return connection.execute(rated).scalar_one()
