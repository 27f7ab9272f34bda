"""Checks that raise and clear alarms: accuracy, drift, sources, the review queue, trainings."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sqlalchemy import case, exists, func, select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import aliased

from rlhf_loop import registry
from rlhf_loop.config import Settings
from rlhf_loop.domain import AlarmKind, Interval, Progress, ReviewerRole
from rlhf_loop.errors import EncoderError
from rlhf_loop.monitoring.drift import Drift, drift
from rlhf_loop.registry.schedule import NO_FAULT
from rlhf_loop.reviewing.candidates import stands_for_all
from rlhf_loop.store.alarms import Alarm, clear_alarm, open_alarms, raise_alarm
from rlhf_loop.store.engine import reading
from rlhf_loop.store.tables import Interaction, Review, ServedQuestion, TrainingRun
from rlhf_loop.utils.translation import Message

if TYPE_CHECKING:
    from rlhf_loop.encoders import TextEncoder

logger = logging.getLogger(__name__)

#: Drift is seen by weeks, and takes seconds to look for.
DRIFT_EVERY = timedelta(hours=6)
#: So many times `retrain_days` the last training may be old while there are new ratings.
_LATE = 3
#: Runs that are looked at, and reviews, the newest.
_RUNS, _REVIEWS = 20, 10_000
_drift_seen: WeakKeyDictionary[Engine, datetime] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """The finding of a check. Without a message there is no problem, and an open alarm is cleared."""

    kind: AlarmKind
    message: str = ""
    subject: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Context:
    engine: Engine
    settings: Settings
    encoder: TextEncoder | None
    now: datetime
    progress: Progress | None


def check(
    engine: Engine,
    settings: Settings,
    *,
    encoder: TextEncoder | None = None,
    now: datetime | None = None,
    progress: Progress | None = None,
) -> list[Alarm]:
    """Open and clear alarms by what the database holds; return those that are open now.

    Cheap enough for every few minutes: drift is looked for at most every six hours by a process. Without `encoder` it
    loads the one of the settings then. A check that fails is logged, and the others go on. `progress` gets how many
    questions drift was looked for in, which alone takes long, and how many there are.

    Raises:
        DatabaseError: the database cannot be reached.
    """
    context = _Context(engine, settings, encoder, now or datetime.now(UTC), progress)
    for name, look in _CHECKS.items():
        try:
            for verdict in look(context):
                _settle(engine, verdict, context.now)
        except Exception:
            logger.exception("The check of %s failed; its alarms stay as they are.", name)
    if progress is not None:
        progress(1, 1)
    return open_alarms(engine)


def _settle(engine: Engine, verdict: _Verdict, now: datetime) -> None:
    kind, subject = verdict.kind, verdict.subject
    if verdict.message:
        raise_alarm(engine, kind, verdict.message, subject=subject, detail=verdict.detail, now=now)
    else:
        clear_alarm(engine, kind, subject=subject, now=now)


def _accuracy(context: _Context) -> Iterator[_Verdict]:
    # Imported here: it brings numpy, and without a live model there is nothing to count.
    from rlhf_loop.monitoring.accuracy import fresh_accuracy

    version = registry.live(context.engine)
    fresh = fresh_accuracy(context.engine, version) if version else None
    if version is None or fresh is None or not fresh.behind:
        yield _Verdict(kind=AlarmKind.ACCURACY)
        return
    yield _Verdict(
        kind=AlarmKind.ACCURACY,
        message=Message(
            "The live model {version} is right about {measured} of the answers, by {n} ratings since it went live, and "
            "its training said {estimate}. Look at the newest ratings; then train on them (rlhf-loop retrain), or go "
            "back to the version before: rlhf-loop models rollback",
            version=version.version,
            measured=_percent(fresh.measured),
            n=fresh.ratings,
            estimate=_percent(fresh.estimate),
        ),
        detail={"version": version.version, **asdict(fresh)},
    )


def _drift(context: _Context) -> Iterator[_Verdict]:
    engine, now = context.engine, context.now
    seen = _drift_seen.get(engine)
    if seen is not None and timedelta() <= now - seen < DRIFT_EVERY:
        return
    encoder = context.encoder or _own_encoder(context.settings)
    found = drift(engine, encoder=encoder, now=now, progress=context.progress)
    _drift_seen[engine] = now
    if found.drifted_since is not None:
        yield _Verdict(
            kind=AlarmKind.DRIFT,
            message=_drift_message(found),
            detail={"since": str(found.drifted_since), "moved": [*found.moved]},
        )
    elif encoder is not None:
        # Without an encoder nobody can tell that the questions are as they were.
        yield _Verdict(kind=AlarmKind.DRIFT)


def drifted_since(engine: Engine, settings: Settings, *, progress: Progress | None = None) -> date | None:
    """Return the week since when questions or scores have drifted; None if they have not, or nobody can tell.

    For `progress` see `drift`.

    Raises:
        DatabaseError: the database cannot be reached.
    """
    return drift(engine, encoder=_own_encoder(settings), progress=progress).drifted_since


def _own_encoder(settings: Settings) -> TextEncoder | None:
    from rlhf_loop.encoders import load_encoder

    try:
        return load_encoder(settings, download=False, serving=True)
    except EncoderError as error:
        logger.warning("Drift of the questions cannot be seen: %s", error)
        return None


def _drift_message(found: Drift) -> str:
    parts = []
    weeks = [point for point in found.points if found.drifted_since and point.week >= found.drifted_since]
    if "questions" in found.moved:
        parts.append(
            Message(
                "other questions are asked than from {first} to {last} (PSI by week: {numbers})",
                first=str(found.reference_from),
                last=str(found.reference_until),
                numbers=_numbers(point.question_psi for point in weeks),
            )
        )
    if "scores" in found.moved:
        numbers = _numbers(point.score_psi for point in weeks)
        parts.append(
            Message("the live model's best scores differ from its first ones (PSI by week: {numbers})", numbers=numbers)
        )
    changes = Message("{first}, and {second}", first=parts[0], second=parts[1]) if parts[1:] else parts[0]
    return Message(
        "Since the week of {week} {changes}. Its accuracy may no longer be what it was: have answers to the newest "
        "questions rated, then run: rlhf-loop retrain",
        week=str(found.drifted_since),
        changes=changes,
    )


def _numbers(found: Iterable[float | None]) -> str:
    return Message.joined(*(Message("{n:.2f}", n=float(each)) for each in found if each is not None), by=", ")


def _sources(context: _Context) -> Iterator[_Verdict]:
    for source in source_health(context.engine, now=context.now):
        if source.failing:
            yield _Verdict(
                kind=AlarmKind.SOURCE,
                subject=source.name,
                message=Message(
                    "The source {name} did not work for {failed} of the latest {asked} questions: {reason}. Answers "
                    "come without it. See the log, check the source's settings (rlhf-loop doctor), or take it out of "
                    "RLHF_SOURCES.",
                    name=source.name,
                    failed=source.failed,
                    asked=source.asked,
                    reason=source.reason.rstrip("."),
                ),
                detail={"failed": source.failed, "asked": source.asked, "reason": source.reason},
            )
        elif source.well:
            yield _Verdict(kind=AlarmKind.SOURCE, subject=source.name)


def _queue(context: _Context) -> Iterator[_Verdict]:
    limit = context.settings.alarm_queue
    waiting = backlog(context.engine, now=context.now, at_least=limit) if limit else None
    if waiting is None or waiting.waiting <= limit or waiting.growth < 0:
        yield _Verdict(kind=AlarmKind.QUEUE)
    elif waiting.growth > 0:
        values = {"waiting": waiting.waiting, "growth": waiting.growth, "limit": limit}
        count = Message("More than {n:,}", n=waiting.waiting) if waiting.more else Message("{n:,}", n=waiting.waiting)
        yield _Verdict(
            kind=AlarmKind.QUEUE,
            message=Message(
                "{count} answers wait for a review, {growth:,} more than a week ago; the alarm is set to {limit:,}. "
                "Ask more experts to review (rlhf-loop users add), or set RLHF_ALARM_QUEUE.",
                count=count,
                growth=waiting.growth,
                limit=limit,
            ),
            detail=values,
        )


def _training(context: _Context) -> Iterator[_Verdict]:
    newest = (
        select(TrainingRun.run_id, TrainingRun.status, TrainingRun.started_at, TrainingRun.error)
        .where(TrainingRun.status != "running")
        .order_by(TrainingRun.started_at.desc(), TrainingRun.id.desc())
        .limit(_RUNS)
    )
    with reading(context.engine) as connection:
        runs = [row for row in connection.execute(newest) if not (row.error or "").startswith(NO_FAULT)]
    if runs and runs[0].status == "failed":
        first = (runs[0].error or "").strip().splitlines()[:1]
        yield _Verdict(
            kind=AlarmKind.TRAINING,
            message=Message(
                "The training of {moment} failed: {error}. The live model is untouched. Correct that, then run: "
                "rlhf-loop retrain",
                moment=_moment(runs[0].started_at),
                error=first[0][:300].rstrip(".") if first else Message("it was stopped"),
            ),
            detail={"run": runs[0].run_id},
        )
        return
    ended = next((row for row in runs if row.status in ("succeeded", "rejected")), None)
    yield _late(context, ended.started_at) if ended else _Verdict(kind=AlarmKind.TRAINING)


def _late(context: _Context, trained_at: datetime) -> _Verdict:
    """Say that ratings wait for a training that does not come."""
    days = context.settings.retrain_days
    if not days or context.now - trained_at <= _LATE * timedelta(days=days) or not _rated_since(context, trained_at):
        return _Verdict(kind=AlarmKind.TRAINING)
    return _Verdict(
        kind=AlarmKind.TRAINING,
        message=Message(
            "New ratings wait, but the last training was on {moment}, and one is due every {days:g} days. See that the "
            "worker or the timer runs (rlhf-loop worker), or run: rlhf-loop retrain",
            moment=_moment(trained_at),
            days=days,
        ),
        detail={"trained_at": trained_at.isoformat()},
    )


def _rated_since(context: _Context, moment: datetime) -> bool:
    newest = (
        select(Review.reviewed_at)
        .where(Review.role == ReviewerRole.EXPERT)
        .order_by(Review.id.desc())
        .limit(_REVIEWS)
        .subquery()
    )
    with reading(context.engine) as connection:
        return connection.execute(select(1).where(newest.c.reviewed_at > moment).limit(1)).first() is not None


def _percent(interval: Interval) -> str:
    ends = {"low": float(interval.low), "high": float(interval.high)}
    return Message("{value:.0%} ({low:.0%} to {high:.0%})", value=float(interval.value), **ends)


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


_CHECKS: Mapping[str, Callable[[_Context], Iterator[_Verdict]]] = {
    "accuracy": _accuracy,
    "drift": _drift,
    "sources": _sources,
    "the queue": _queue,
    "training": _training,
}


#: The time over which the growth of the queue is counted.
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
        select(Review.interaction_key, Review.reviewed_at)
        .where(Review.role == ReviewerRole.EXPERT)
        .order_by(Review.id.desc())
        .limit(_ENOUGH_REVIEWS)
        .subquery()
    )
    earlier = aliased(Review)
    rated_before = exists(
        select(1).where(
            earlier.interaction_key == Interaction.id, earlier.role == ReviewerRole.EXPERT, earlier.reviewed_at < since
        )
    )
    rated = (
        select(func.count(Interaction.id.distinct()))
        .join(newest, newest.c.interaction_key == Interaction.id)
        .where(
            newest.c.reviewed_at >= since, newest.c.reviewed_at <= now, Interaction.created_at < since, ~rated_before
        )
    )
    return connection.execute(rated).scalar_one()


#: What `degraded` names beside sources.
_NO_SOURCES = frozenset({"model", "drafts", "recording", "experiment"})
#: The stage of a source, among those that have a time.
_STAGE = "source:"
#: How far back is looked, and how many questions; and what counts as lately.
_SINCE, _QUESTIONS = timedelta(days=1), 1_000
_LATELY = timedelta(hours=1)
#: Questions that it takes to say anything, and the share of them that has to fail.
_ENOUGH, _MANY = 10, 0.5
#: Of the latest questions so many may fail where all is well again.
_FORGIVEN = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceHealth:
    """A source lately: it failed for `failed` of `asked` questions. `reason` is what was wrong the last time.

    Between `failing` and `well` nothing is sure.
    """

    name: str
    asked: int
    failed: int
    failing: bool
    well: bool
    reason: str


@dataclass(frozen=True, slots=True)
class _Outcome:
    at: datetime
    trouble: str


def source_health(engine: Engine, *, now: datetime) -> list[SourceHealth]:
    """Tell how each source does that was asked within a day, by name.

    One that was not asked any more in the latest ten questions is well: somebody has taken it out.
    """
    latest = (
        select(ServedQuestion.served_at, ServedQuestion.degraded, ServedQuestion.timings)
        .where(ServedQuestion.served_at > now - _SINCE, ServedQuestion.served_at <= now, ServedQuestion.door.is_(None))
        .order_by(ServedQuestion.served_at.desc(), ServedQuestion.candidate_group)
        .limit(_QUESTIONS)
    )
    outcomes: dict[str, list[_Outcome]] = defaultdict(list)
    with reading(engine) as connection:
        rows = connection.execute(latest).all()
    asked_now: set[str] = set()
    for place, row in enumerate(rows):
        degraded = row.degraded or {}
        names = {stage.removeprefix(_STAGE) for stage in row.timings or () if stage.startswith(_STAGE)}
        names |= degraded.keys() - _NO_SOURCES
        for name in names:
            outcomes[name].append(_Outcome(row.served_at, degraded.get(name, "")))
        if place < _ENOUGH:
            asked_now |= names
    gone = outcomes.keys() - asked_now if len(rows) >= _ENOUGH else set()
    return [_health(name, outcomes[name], now, gone=name in gone) for name in sorted(outcomes)]


def _health(name: str, outcomes: list[_Outcome], now: datetime, *, gone: bool) -> SourceHealth:
    """Judge the outcomes, the latest of which comes first."""
    lately = [outcome for outcome in outcomes if outcome.at > now - _LATELY]
    last = outcomes[:_ENOUGH]
    # Where few people ask, an hour has too few questions.
    counted = lately if len(lately) >= _ENOUGH else last
    failed = sum(bool(outcome.trouble) for outcome in counted)
    failed_last = sum(bool(outcome.trouble) for outcome in last)
    often = len(lately) >= _ENOUGH and failed >= _MANY * len(lately)
    failing = not gone and (often or (len(last) >= _ENOUGH and failed_last == len(last)))
    return SourceHealth(
        name=name,
        asked=len(counted),
        failed=failed,
        failing=failing,
        well=gone or (not failing and len(last) >= _ENOUGH and failed_last <= _FORGIVEN),
        reason=next((outcome.trouble for outcome in outcomes if outcome.trouble), ""),
    )
