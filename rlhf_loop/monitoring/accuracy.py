"""Accuracy of the live model on fresh ratings: those that experts gave since it went live to answers it had scored.

The review queue prefers answers of which the model is unsure, and it is wrong about those more often: their plain mean
would raise an alarm about every model. So it is the answers that the model has scored that are measured, and not those
that were rated: what the model itself expects of them, corrected by how far that was off where somebody rated, band by
band of the scores (the difference estimator with strata; Särndal, Swensson, Wretman, Model Assisted Survey Sampling,
1992). Within a band the queue does not look at what matters here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.engine import Connection, Engine

from rlhf_loop.domain import GOOD_RATING, Interval, ReviewerRole, prompt_key
from rlhf_loop.registry import Version
from rlhf_loop.store.engine import reading
from rlhf_loop.store.tables import Interaction, Review
from rlhf_loop.training import metrics
from rlhf_loop.utils.concurrency import single_threaded_blas

#: Ratings from which on they say something; the newest answers and the newest reviews that are looked at.
ENOUGH = 30
_ANSWERS, _REVIEWS = 500, 20_000
#: The newest answers that say how scores are spread, and where one band ends and the next begins.
_SPREAD, _EDGES = 10_000, (0.2, 0.4, 0.6, 0.8)
#: Bands without ratings may hold this share of the answers; else nobody can tell.
_UNSEEN = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshAccuracy:
    """The accuracy on `ratings` fresh ratings to `questions`, and the `estimate` of the version's training."""

    ratings: int
    questions: int
    measured: Interval
    estimate: Interval

    @property
    def behind(self) -> bool:
        """True if it is below the estimate for sure: the 95 % interval of their difference lies below 0.

        It is made of the two intervals, as both are uncertain (Zou and Donner, 2008).
        """
        above, below = self.measured.high - self.measured.value, self.estimate.value - self.estimate.low
        return self.measured.value - self.estimate.value + math.hypot(above, below) < 0


def fresh_accuracy(engine: Engine, version: Version) -> FreshAccuracy | None:
    """Compare what experts said while the version was live with what its training measured; None if it cannot be told.

    An answer counts if this very version had scored it; what end users say does not count.
    """
    estimate = version.measured("accuracy")
    if estimate is None or version.live_from is None:
        return None
    with reading(engine) as connection:
        rated = _rated(connection, version)
        spread = _spread(connection, version)
    if len(rated) < ENOUGH or not len(spread):
        return None
    question = np.unique([prompt_key(row.user_prompt) for row in rated], return_inverse=True)[1]
    score = np.array([row.score for row in rated])
    good = np.array([row.rating for row in rated]) >= GOOD_RATING
    measured = of_all(question, score, good, np.array(spread))
    if measured is None:
        return None
    questions = int(question.max()) + 1
    return FreshAccuracy(ratings=len(rated), questions=questions, measured=measured, estimate=estimate)


def of_all(
    question: NDArray[np.intp], score: NDArray[np.float64], good: NDArray[np.bool_], spread: NDArray[np.float64]
) -> Interval | None:
    """Return the accuracy on all answers, whose scores are `spread`, from those that were rated.

    None where nothing was rated of bands that hold many of the answers. The interval is a bootstrap's, by question.
    """
    band = np.digitize(score, _EDGES)
    bands = np.unique(band)
    shares = np.bincount(np.digitize(spread, _EDGES), minlength=len(_EDGES) + 1)[bands] / len(spread)
    if shares.sum() < 1 - _UNSEEN:
        return None
    off = ((score >= 0.5) == good) - _expected(score)
    with single_threaded_blas():
        weights = metrics.bootstrap_weights(int(question.max()) + 1)
        of_band = np.stack([metrics.mean(question[band == one], off[band == one], weights) for one in bands])
    # A band of which a draw has nothing counts for nothing in that draw.
    counts = np.isfinite(of_band) * shares[:, np.newaxis]
    total = counts.sum(axis=0)
    off_by = np.divide(
        (np.nan_to_num(of_band) * counts).sum(axis=0), total, out=np.full(len(total), np.nan), where=total > 0
    )
    return Interval(*metrics.interval(np.clip(_expected(spread).mean() + off_by, 0.0, 1.0)))


def _expected(score: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how probably the model is right about an answer, as it sees it itself."""
    return np.maximum(score, 1 - score)


def _rated(connection: Connection, version: Version) -> list[Any]:
    """Return prompt, score and rating of the newest answers with a fresh rating."""
    newest = (
        select(Review.interaction_key, Review.reviewed_at)
        .where(Review.role == ReviewerRole.EXPERT)
        .order_by(Review.id.desc())
        .limit(_REVIEWS)
        .subquery()
    )
    fresh = (
        select(Interaction.id)
        .join(newest, newest.c.interaction_key == Interaction.id)
        .where(
            newest.c.reviewed_at >= version.live_from,
            # A score that came with the rating is no prediction.
            newest.c.reviewed_at >= Interaction.created_at,
            Interaction.model_version == version.version,
            Interaction.score.is_not(None),
            Interaction.rating.is_not(None),
        )
        .distinct()
        .order_by(Interaction.id.desc())
        .limit(_ANSWERS)
    )
    wanted = select(Interaction.user_prompt, Interaction.score, Interaction.rating).where(Interaction.id.in_(fresh))
    return list(connection.execute(wanted.order_by(Interaction.id)))


def _spread(connection: Connection, version: Version) -> list[float]:
    """Return the scores of the newest answers that the version has scored."""
    newest = (
        select(Interaction.score, Interaction.model_version).order_by(Interaction.id.desc()).limit(_SPREAD).subquery()
    )
    scores = select(newest.c.score).where(newest.c.model_version == version.version, newest.c.score.is_not(None))
    return list(connection.execute(scores).scalars())
