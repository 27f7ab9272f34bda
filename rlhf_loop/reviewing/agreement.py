"""Agreement of the raters: Krippendorff's alpha for ordered grades, and each rater's bias and drift.

Only experts' reviews count. An answer is a unit; those that one expert rated say nothing about agreement.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from math import isfinite
from statistics import median
from typing import TYPE_CHECKING

from sqlalchemy import Subquery, func, select
from sqlalchemy.engine import Connection, Engine

from rlhf_loop.domain import Interval, ReviewerRole
from rlhf_loop.store.engine import reading
from rlhf_loop.store.tables import Review
from rlhf_loop.utils.translation import Message

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: The newest reviews that are looked at: for a page, and for all months.
MOST_REVIEWS, _OF_ALL_MONTHS = 50_000, 200_000
#: A drift takes so many shared answers; halves of fewer say nothing.
DRIFT_FROM = 20
#: The weeks of a report, the newest.
WEEKS = 26
#: So many shared answers make a month's alpha worth looking at; and the months that are looked at, the newest.
ENOUGH_SHARED = 20
MONTHS = 24

_GRADES = 5
_RESAMPLES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class WeekPoint:
    """A rater's week, which begins on a Monday (UTC); `bias` as in `RaterReport`."""

    start: date
    reviews: int
    mean_rating: float
    bias: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RaterReport:
    """A rater's reviews, bias and drift.

    `bias` is the mean difference from the median of the others, on the `shared` answers that others rated too.
    `drift` is how much it changed from the first half of those answers to the second, with its 95 % interval.
    """

    reviewer: str
    reviews: int
    mean_rating: float
    bias: float | None
    shared: int
    weeks: tuple[WeekPoint, ...]
    drift: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Krippendorff's alpha: 1 where all agree, 0 as by chance; where it cannot be computed None, and `reason` says why.

    `interval` is its 95 % interval by a bootstrap over the answers, None without alpha or where resamples have none.
    `answers` have reviews by two experts or more, `reviews` counts those. `raters` are those that were asked for, by
    name; there are others after `next`, if it is not None.
    """

    alpha: float | None
    interval: Interval | None
    reason: str | None
    answers: int
    reviews: int
    raters: tuple[RaterReport, ...]
    next: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MonthPoint:
    """A month, by its first day: how far experts agreed on the `answers` that got their last review in it.

    `alpha` is None where these are fewer than `ENOUGH_SHARED`, or where all have the same grade.
    """

    start: date
    answers: int
    alpha: Interval | None


@dataclass(frozen=True, slots=True)
class _RatingRow:
    reviewer: str
    rating: int
    reviewed_at: datetime
    #: The difference from the median of the others, None without others.
    difference: float | None


def agreement(
    engine: Engine,
    *,
    seed: int = 0,
    of: str | None = None,
    after: str = "",
    limit: int | None = None,
    drifts: bool = True,
) -> Agreement:
    """Measure how far the experts agree, by their newest 50,000 reviews.

    Reports are made of the rater `of`, or of the first `limit` raters after that name. Their drifts take most of the
    time.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    newest = _newest(MOST_REVIEWS)
    with reading(engine) as connection:
        counts, _ = _shared(connection, newest)
        names = sorted(connection.execute(select(newest.c.reviewer).distinct()).scalars())
        wanted = [name for name in names if (name > after if of is None else name == of)]
        chosen = wanted[:limit]
        by_answer = _reviews(connection, newest, None if chosen == names else chosen)
    alpha, interval, reason = _alpha(counts, rng)
    return Agreement(
        alpha=alpha,
        interval=interval,
        reason=reason,
        answers=len(counts),
        reviews=int(counts.sum()),
        raters=_reports(by_answer.values(), chosen, rng, drifts=drifts),
        next=chosen[-1] if len(wanted) > len(chosen) else None,
    )


def agreement_by_month(engine: Engine, *, seed: int = 0) -> list[MonthPoint]:
    """Measure how far the experts agreed in each month with shared answers, the oldest first."""
    import numpy as np

    with reading(engine) as connection:
        counts, last = _shared(connection, _newest(_OF_ALL_MONTHS))
    months: dict[date, list[int]] = {}
    for answer, reviewed_at in enumerate(last):
        months.setdefault(reviewed_at.date().replace(day=1), []).append(answer)
    rng = np.random.default_rng(seed)
    points = []
    for start in sorted(months)[-MONTHS:]:
        shared = counts[months[start]]
        alpha, interval, _ = _alpha(shared, rng) if len(shared) >= ENOUGH_SHARED else (None, None, None)
        if alpha is not None and interval is None:
            interval = Interval(alpha, float("nan"), float("nan"))
        points.append(MonthPoint(start=start, answers=len(shared), alpha=interval))
    return points


def _newest(most: int) -> Subquery:
    """Select the newest reviews by experts."""
    wanted = (
        select(Review.id, Review.interaction_key.label("answer"), Review.reviewer, Review.rating, Review.reviewed_at)
        .where(Review.role == ReviewerRole.EXPERT)
        .order_by(Review.id.desc())
        .limit(most)
    )
    return wanted.subquery()


def _shared(connection: Connection, newest: Subquery) -> tuple[NDArray[np.int64], list[datetime]]:
    """Return how often each answer with several of these reviews got each grade, and when it got the last of them.

    The database counts: most answers have one review, and a page would wait for Python to read them all.
    """
    import numpy as np

    each = [func.count().filter(newest.c.rating == grade) for grade in range(1, _GRADES + 1)]
    wanted = (
        select(func.max(newest.c.reviewed_at), *each)
        .group_by(newest.c.answer)
        .having(func.count() > 1)
        .order_by(newest.c.answer)
    )
    last, counts = list[datetime](), list[tuple[int, ...]]()
    for reviewed_at, *grades in connection.execute(wanted, execution_options={"yield_per": 5000}):
        last.append(reviewed_at)
        counts.append(tuple(grades))
    return np.asarray(counts, dtype=np.int64).reshape(len(counts), _GRADES), last


def _reviews(
    connection: Connection, newest: Subquery, chosen: Sequence[str] | None
) -> dict[int, list[tuple[str, int, datetime]]]:
    """Return reviewer, rating and time of the reviews of each answer that one of the chosen raters reviewed."""
    wanted = select(newest.c.answer, newest.c.reviewer, newest.c.rating, newest.c.reviewed_at).order_by(newest.c.id)
    if chosen is not None:
        theirs = newest.alias("theirs")
        wanted = wanted.where(newest.c.answer.in_(select(theirs.c.answer).where(theirs.c.reviewer.in_(chosen))))
    by_answer: dict[int, list[tuple[str, int, datetime]]] = {}
    for answer, reviewer, rating, reviewed_at in connection.execute(wanted, execution_options={"yield_per": 5000}):
        by_answer.setdefault(answer, []).append((reviewer, rating, reviewed_at))
    return by_answer


# --- Alpha -----------------------------------------------------------------------------------------------------------


def _alpha(counts: NDArray[np.int64], rng: np.random.Generator) -> tuple[float | None, Interval | None, str | None]:
    import numpy as np

    if not len(counts):
        return None, None, Message("No answer has been rated by two experts yet.")
    given = np.flatnonzero(counts.any(axis=0)) + 1
    if len(given) == 1:
        same = Message(
            "All shared ratings are {grade}: where nothing differs, agreement has no measure.", grade=int(given[0])
        )
        return None, None, same
    patterns, times = np.unique(counts, axis=0, return_counts=True)
    # To draw answers is to draw how often each pattern of ratings comes up, and there are few of them however many
    # answers there are.
    drawn = rng.multinomial(len(counts), times / len(counts), size=_RESAMPLES)
    alpha, *resampled = alphas(patterns, np.vstack([times, drawn])).tolist()
    resampled = [value for value in resampled if isfinite(value)]
    if len(resampled) < _RESAMPLES / 2:
        return alpha, None, None
    low, high = np.quantile(resampled, (0.025, 0.975))
    return alpha, Interval(alpha, float(low), float(high)), None


def alphas(patterns: NDArray[np.int64], times: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return ordinal alpha for several samples at once.

    `patterns` (patterns x grades) holds how many raters gave each grade, two at least; `times` (samples x patterns) how
    many answers of each pattern a sample has. A sample in which all ratings are the same has NaN. The formula is
    Krippendorff's (Computing Krippendorff's Alpha-Reliability, 2011).
    """
    import numpy as np

    raters = patterns.sum(axis=1)
    same = patterns[:, :, None] * np.eye(patterns.shape[1], dtype=np.int64)
    pairs = (patterns[:, :, None] * patterns[:, None, :] - same) / (raters - 1)[:, None, None]
    observed = np.einsum("sp,pij->sij", times.astype(float), pairs, optimize=True)
    totals = observed.sum(axis=2)
    # The distance of two grades is how many ratings lie between them, those of the two themselves counted by half.
    middle = np.cumsum(totals, axis=1) - totals / 2
    distance = (middle[:, :, None] - middle[:, None, :]) ** 2
    expected = totals[:, :, None] * totals[:, None, :] / (totals.sum(axis=1) - 1)[:, None, None]
    disagreement, chance = (observed * distance).sum(axis=(1, 2)), (expected * distance).sum(axis=(1, 2))
    shares: NDArray[np.float64] = np.divide(disagreement, chance, out=np.full_like(chance, np.nan), where=chance > 0)
    return 1 - shares


# --- Raters ----------------------------------------------------------------------------------------------------------


def _reports(
    answers: Iterable[Sequence[tuple[str, int, datetime]]],
    chosen: Sequence[str],
    rng: np.random.Generator,
    *,
    drifts: bool,
) -> tuple[RaterReport, ...]:
    by_rater: dict[str, list[_RatingRow]] = {name: [] for name in chosen}
    for reviews in answers:
        ratings = [rating for _, rating, _ in reviews]
        for place, (reviewer, rating, reviewed_at) in enumerate(reviews):
            if (rows := by_rater.get(reviewer)) is not None:
                others = ratings[:place] + ratings[place + 1 :]
                difference = rating - median(others) if others else None
                rows.append(_RatingRow(reviewer, rating, reviewed_at, difference))
    return tuple(_report(name, rows, rng if drifts else None) for name, rows in by_rater.items())


def _report(reviewer: str, reviews: list[_RatingRow], rng: np.random.Generator | None) -> RaterReport:
    reviews.sort(key=lambda review: review.reviewed_at)
    differences = [review.difference for review in reviews if review.difference is not None]
    weeks: dict[date, list[_RatingRow]] = {}
    for review in reviews:
        day = review.reviewed_at.astimezone(UTC).date()
        weeks.setdefault(day - timedelta(days=day.weekday()), []).append(review)
    return RaterReport(
        reviewer=reviewer,
        reviews=len(reviews),
        mean_rating=_mean_rating(reviews),
        bias=_bias(reviews),
        shared=len(differences),
        weeks=tuple(
            WeekPoint(start=start, reviews=len(week), mean_rating=_mean_rating(week), bias=_bias(week))
            for start, week in sorted(weeks.items())[-WEEKS:]
        ),
        drift=None if rng is None else _drift(differences, rng),
    )


def _drift(differences: Sequence[float], rng: np.random.Generator) -> Interval | None:
    """Return how much the mean differs between the halves, both of them resampled for its interval."""
    import numpy as np

    if len(differences) < DRIFT_FROM:
        return None
    middle = len(differences) // 2
    halves = np.asarray(differences[:middle]), np.asarray(differences[middle:])
    means = []
    for half in halves:
        values, times = np.unique(half, return_counts=True)
        drawn = rng.multinomial(len(half), times / len(half), size=_RESAMPLES)
        means.append(drawn @ values / len(half))
    low, high = np.quantile(means[1] - means[0], (0.025, 0.975))
    return Interval(float(halves[1].mean() - halves[0].mean()), float(low), float(high))


def _mean_rating(reviews: Sequence[_RatingRow]) -> float:
    return sum(review.rating for review in reviews) / len(reviews)


def _bias(reviews: Sequence[_RatingRow]) -> float | None:
    differences = [review.difference for review in reviews if review.difference is not None]
    return sum(differences) / len(differences) if differences else None
