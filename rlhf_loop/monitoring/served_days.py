"""Sums of the served questions by day: what the trends are made of, however many questions there were.

The worker sums up a day once it is over (`sum_up`), and from then on that day is one row to read. Days that are not
summed up are so where they are asked for: on a small installation without a worker that is all of them. So the trends
of millions of questions take what the last days take, and stay when the questions are deleted (`RLHF_SERVED_DAYS`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import Dialect, Select, case, func, select
from sqlalchemy.engine import Connection, Engine

from rlhf_loop.domain import Progress
from rlhf_loop.store.engine import reading, transaction, upsert
from rlhf_loop.store.rankings import Stored, purge, purge_served
from rlhf_loop.store.tables import Interaction, ServedDay, ServedQuestion

_DAY = timedelta(days=1)
#: A day is over only then: what waits in an outbox comes later. What waits there for longer is in no trend.
_OVER = timedelta(days=1)
_SOURCE = func.coalesce(Interaction.source, "unknown")


@dataclass(frozen=True, slots=True)
class OfSource:
    """Numbers of a source's answers to questions of `/data`: those that were offered, and those that came first."""

    offered: int = 0
    first: int = 0


@dataclass(slots=True)
class ServedSums:
    """Sums of a day: `answers` that came first with a score, the sum of their scores, and those below a threshold."""

    answers: int = 0
    score_sum: float = 0.0
    below: int = 0
    sources: dict[str, OfSource] = field(default_factory=dict)


def served_sums(engine: Engine, *, since: datetime, threshold: float) -> Mapping[date, ServedSums]:
    """Return the sums of each day since then, the oldest first; a day on which nothing was served may be missing."""
    # The first day is a part of one.
    first = since.astimezone(UTC).date() + _DAY
    with reading(engine) as connection:
        stored = _stored(connection, first)
        found = {day: sums for day, (of, sums) in stored.items() if of == threshold}
        for start, end in _gaps(since, found):
            found |= _counted(connection, start, end, threshold)
    found |= {day: _fuller(sums, found.get(day)) for day, (_, sums) in stored.items()}
    return dict(sorted(found.items()))


def sum_up(engine: Engine, *, threshold: float, now: datetime | None = None) -> int:
    """Sum up the days that are over, each in a transaction of its own; return how many were new.

    Days that were summed up with another threshold are so again. Where something of them was deleted meanwhile, what
    they have stays, with what was below the threshold of then.
    """
    end = _summed_until(now)
    with reading(engine) as connection:
        oldest = connection.execute(select(func.min(ServedQuestion.served_at))).scalar()
        known = _stored(connection, oldest.date()) if oldest else {}
    if oldest is None:
        return 0
    day, summed = oldest.date(), 0
    while day < end:
        of, sums = known.get(day, (None, None))
        if of != threshold:
            with transaction(engine) as connection:
                counted = _counted(connection, _midnight(day), _midnight(day + _DAY), threshold).get(day, ServedSums())
                upsert(connection, ServedDay, _row(day, _fuller(sums, counted), threshold), key=["day"])
            summed += 1
        day += _DAY
    return summed


@dataclass(frozen=True, slots=True)
class Purged:
    """The documents of recorded rankings that were deleted for their age, and the records of serving."""

    documents: Stored
    served: int


def purge_old(
    engine: Engine,
    *,
    record_days: float,
    served_days: float,
    threshold: float,
    actor: str,
    now: datetime | None = None,
    progress: Progress | None = None,
) -> Purged:
    """Delete what is older than so many days: documents of recorded rankings, and how questions were served; 0: never.

    Days are summed up before their questions go; those that are not over stay. `store.engine.scrub` then sees to the
    log. `progress` gets how much is deleted, first of the documents and then of the records, and how much there is.
    """
    now = now or datetime.now(UTC)
    sum_up(engine, threshold=threshold, now=now)
    documents, served = Stored(), 0
    if record_days:
        documents = purge(engine, before=now - timedelta(days=record_days), actor=actor, progress=progress)
    if served_days:
        before = served_before(served_days, now=now)
        served = purge_served(engine, before=before, actor=actor, progress=progress)
    return Purged(documents, served)


def served_before(days: float, *, now: datetime) -> datetime:
    """Return the time before which questions are deleted that are older than so many days."""
    return min(now - timedelta(days=days), _midnight(_summed_until(now)))


def _summed_until(now: datetime | None) -> date:
    return ((now or datetime.now(UTC)).astimezone(UTC) - _OVER).date()


def _stored(connection: Connection, first: date) -> dict[date, tuple[float, ServedSums]]:
    """Return the threshold and the sums of the days that were summed up, from the first one on."""
    wanted = select(*ServedDay.__table__.columns).where(ServedDay.day >= first.isoformat())
    return {
        date.fromisoformat(row.day): (
            row.threshold,
            ServedSums(
                row.answers, row.score_sum, row.below, {name: OfSource(*of) for name, of in row.sources.items()}
            ),
        )
        for row in connection.execute(wanted)
    }


def _fuller(stored: ServedSums | None, counted: ServedSums | None) -> ServedSums:
    """Return what was counted now, unless it lacks something that was there when the day was summed up."""
    if stored is None or counted is None:
        return stored or counted or ServedSums()
    whole = (counted.answers, counted.sources) == (stored.answers, stored.sources)
    return counted if whole else stored


def _gaps(since: datetime, stored: Iterable[date]) -> list[tuple[datetime, datetime | None]]:
    """Return the times since then that are not in the days that are stored; the last one has no end."""
    gaps, start = list[tuple[datetime, datetime | None]](), since
    for day in sorted(stored):
        if start < _midnight(day):
            gaps.append((start, _midnight(day)))
        start = _midnight(day + _DAY)
    return [*gaps, (start, None)]


def _counted(connection: Connection, start: datetime, end: datetime | None, threshold: float) -> dict[date, ServedSums]:
    of, score = ServedQuestion, Interaction.score
    day = utc_day(connection.dialect, of.served_at)
    when = [of.served_at >= start] + ([] if end is None else [of.served_at < end])
    # Of what the service served alone: imported answers had no question to be first at, and what others found and had
    # ranked here is none of our sources'.
    ours = [*when, of.door.is_(None)]
    first, offered = Interaction.external_id == of.first_id, Interaction.candidate_group == of.candidate_group
    below = func.sum(case((score < threshold, 1), else_=0))
    found: dict[date, ServedSums] = defaultdict(ServedSums)
    scores = select(day, func.count(), func.sum(score), below).select_from(of).join(Interaction, first)
    for on, answers, total, weak in connection.execute(scores.where(*when, score.is_not(None)).group_by(day)):
        sums = found[_date(on)]
        sums.answers, sums.score_sum, sums.below = answers, float(total), int(weak)

    def by_source(how: Any) -> Select[Any]:
        joined = select(day, _SOURCE, func.count()).select_from(of).join(Interaction, how)
        return joined.where(*ours).group_by(day, _SOURCE)

    wins = {(_date(on), name): count for on, name, count in connection.execute(by_source(first))}
    for on, name, count in connection.execute(by_source(offered)):
        found[_date(on)].sources[name] = OfSource(count, wins.pop((_date(on), name), 0))
    for (on, name), count in wins.items():
        found[on].sources[name] = OfSource(0, count)
    return dict(found)


def _row(day: date, of: ServedSums, threshold: float) -> dict[str, object]:
    return {
        "day": day.isoformat(),
        "threshold": threshold,
        "answers": of.answers,
        "score_sum": of.score_sum,
        "below": of.below,
        "sources": {name: [each.offered, each.first] for name, each in sorted(of.sources.items())},
    }


def utc_day(dialect: Dialect, at: Any) -> Any:
    """Return the expression for the day of a time, in UTC."""
    # PostgreSQL would else count days in the time zone of the connection.
    return func.date(at if dialect.name == "sqlite" else func.timezone("UTC", at))


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _date(found: Any) -> date:
    return found if isinstance(found, date) else date.fromisoformat(found)
