"""The retraining schedule: due with enough new ratings, after enough time, or when questions or scores have drifted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import ColumnElement, func, not_, or_, select
from sqlalchemy.engine import Connection, Engine

from rlhf_loop.config import Settings
from rlhf_loop.domain import MIN_SAMPLES, ReviewerRole
from rlhf_loop.store.engine import reading
from rlhf_loop.store.tables import Interaction, Review, TrainingRun

#: After a failed run the next one waits that long: the cause is seldom gone at once.
_AFTER_FAILURE = timedelta(hours=1)
#: Drift alone teaches nothing: so many ratings have to be new since the last training, and a day has to have passed.
DRIFT_RATINGS, DRIFT_AFTER = 10, timedelta(days=1)
_FINISHED = ("succeeded", "rejected")
#: How the error of a run begins that somebody stopped: there was nothing wrong with it.
STOPPED = ("KeyboardInterrupt", "SystemExit")
#: Ends of a run that nobody has to do anything about: too few ratings yet, or somebody stopped it.
NO_FAULT = ("NotEnoughDataError", *STOPPED)


@dataclass(frozen=True, slots=True)
class Due:
    """A retraining that is due or not, with the reason in a sentence."""

    due: bool
    reason: str


def due(
    engine: Engine, settings: Settings, *, now: datetime | None = None, drifted: Callable[[], date | None] | None = None
) -> Due:
    """Tell whether to train again: by experts' ratings since the last training, by its age, by drift, or for the
    first time.

    A changed rating counts as a new one. A training that failed does not count as one, but for an hour after it nothing
    is due, unless somebody stopped it. `drifted` tells since which week questions or scores have drifted; as that takes
    seconds, it is only asked where it decides.
    """
    now = now or datetime.now(UTC)
    with reading(engine) as connection:
        error = func.coalesce(TrainingRun.error, "")
        failed, _ = _last(connection, ("failed",), not_(or_(*(error.startswith(name) for name in STOPPED))))
        last, seen = _last(connection, _FINISHED)
        rated = _rated(connection, most=None if last is None else MIN_SAMPLES)
        new = _new_ratings(connection, last, seen) if last else rated
    if failed is not None and abs(now - failed) < _AFTER_FAILURE and (last is None or failed > last):
        return Due(False, f"The last training failed at {failed:%Y-%m-%d %H:%M} UTC; the next try is an hour later.")
    if rated < MIN_SAMPLES:
        return Due(False, f"Only {rated} answers are rated by experts; training needs {MIN_SAMPLES}.")
    if last is None:
        return Due(True, f"{rated} answers are rated, and nothing was trained yet.")
    age = now - last
    if new >= max(1, settings.retrain_ratings):
        return Due(True, f"{new} ratings by experts are new since the last training.")
    if new and age >= timedelta(days=settings.retrain_days):
        return Due(True, f"The last training was {age.days} days ago, and {_ratings(new)} new.")
    if drifted and new >= DRIFT_RATINGS and age >= DRIFT_AFTER and (since := drifted()):
        return Due(True, f"Questions or scores have drifted since the week of {since}, and {_ratings(new)} new.")
    return Due(
        False,
        f"{_ratings(new)} new since the last training at {last:%Y-%m-%d %H:%M} UTC; due with "
        f"{settings.retrain_ratings}, after {settings.retrain_days:g} days with any, or with {DRIFT_RATINGS} if "
        "questions or scores drift.",
    )


def last_review(engine: Engine) -> int:
    """Return the id of the newest review, for the log of a training: later ones are new."""
    with reading(engine) as connection:
        return connection.execute(select(func.max(Review.id))).scalar() or 0


def _last(
    connection: Connection, states: tuple[str, ...], *conditions: ColumnElement[bool]
) -> tuple[datetime | None, int | None]:
    """Return when the last such run began, and the newest review that it knew."""
    newest = (
        select(TrainingRun.started_at, TrainingRun.metrics)
        .where(TrainingRun.status.in_(states), *conditions)
        .order_by(TrainingRun.id.desc())
        .limit(1)
    )
    row = connection.execute(newest).first()
    return (row.started_at, (row.metrics or {}).get("last_review")) if row else (None, None)


def _rated(connection: Connection, *, most: int | None) -> int:
    """Count the rated answers, at most so many: there may be millions."""
    found = select(Interaction.rating).where(Interaction.rating.is_not(None)).limit(most).subquery()
    return connection.execute(select(func.count()).select_from(found)).scalar_one()


def _new_ratings(connection: Connection, since: datetime, seen: int | None) -> int:
    # By id as well as by time: what was imported since may have been rated long before.
    new = Review.reviewed_at > since
    if seen is not None:
        new = or_(new, Review.id > seen)
    return connection.execute(select(func.count()).where(Review.role == ReviewerRole.EXPERT, new)).scalar_one()


def _ratings(count: int) -> str:
    return "1 rating is" if count == 1 else f"{count} ratings are"
