"""What happened week by week, summed up by the database: ratings given, and scores of the answers that came first.

Weeks begin on a Monday, in UTC. A week without anything is left out: a gap is no zero.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import Float, case, cast, func, select
from sqlalchemy.engine import Engine

from rlhf_loop.domain import GOOD_RATING, ReviewerRole
from rlhf_loop.store.engine import reading
from rlhf_loop.store.tables import Interaction, Review, ServedQuestion


@dataclass(frozen=True, slots=True)
class RatedWeek:
    """Ratings of one week: how many, their mean, and the share of those from 4 on."""

    week: date
    ratings: int
    mean: float
    good: float


@dataclass(frozen=True, slots=True)
class ScoredWeek:
    """Scores of the answers that were served first in one week: their mean, and the share below a threshold."""

    week: date
    answers: int
    mean: float
    weak: float


def rated_weeks(engine: Engine, role: ReviewerRole, *, since: datetime) -> list[RatedWeek]:
    """Return the weeks with ratings by experts, or by end users, the oldest first."""
    day = _day(engine, Review.reviewed_at)
    wanted = (
        select(
            day,
            func.count(),
            func.sum(cast(Review.rating, Float)),
            func.sum(case((Review.rating >= GOOD_RATING, 1.0), else_=0.0)),
        )
        .where(Review.role == role, Review.reviewed_at >= since)
        .group_by(day)
    )
    with reading(engine) as connection:
        weeks = _weeks(connection.execute(wanted).all())
    return [RatedWeek(week, int(n), total / n, good / n) for week, (n, total, good) in weeks]


def scored_weeks(engine: Engine, *, threshold: float, since: datetime) -> list[ScoredWeek]:
    """Return the weeks in which answers were served and scored, the oldest first."""
    day = _day(engine, ServedQuestion.served_at)
    wanted = (
        select(
            day,
            func.count(),
            func.sum(Interaction.score),
            func.sum(case((Interaction.score < threshold, 1.0), else_=0.0)),
        )
        .join(Interaction, Interaction.external_id == ServedQuestion.first_id)
        .where(ServedQuestion.served_at >= since, Interaction.score.is_not(None))
        .group_by(day)
    )
    with reading(engine) as connection:
        weeks = _weeks(connection.execute(wanted).all())
    return [ScoredWeek(week, int(n), total / n, weak / n) for week, (n, total, weak) in weeks]


def _day(engine: Engine, moment: Any) -> Any:
    # PostgreSQL would else count days in the time zone of the connection.
    return func.date(moment if engine.dialect.name == "sqlite" else func.timezone("UTC", moment))


def _weeks(rows: Iterable[Any]) -> list[tuple[date, tuple[float, float, float]]]:
    """Add days up to weeks: three sums each."""
    sums: dict[date, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for day, *values in rows:
        found = day if isinstance(day, date) else date.fromisoformat(day)
        week = sums[found - timedelta(days=found.weekday())]
        for place, value in enumerate(values):
            week[place] += float(value)
    return [(week, (n, first, second)) for week, (n, first, second) in sorted(sums.items())]
