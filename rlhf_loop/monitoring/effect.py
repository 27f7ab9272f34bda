"""How much one order of answers is better than another, of ratings that came by an experiment.

Which order answers a question is drawn by chance, with a probability that may change from week to week as somebody
turns the share up or down. So each rated answer counts with one over its probability, and each order's mean is divided
by the sum of these (Hajek 1971): then both orders are judged on the same mixture of weeks. Questions, and not answers,
are drawn anew for the intervals, since who asks the same again gets the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rlhf_loop.domain import GOOD_RATING, Interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: Rated questions that each side needs before there is an interval: fewer would make it look surer than it is.
MIN_RATED = 10
_DRAWS = 1000
#: Numbers of draws by kinds that are held at a time.
_BLOCK = 2**20
_MIDDLE_RATING = 3


@dataclass(slots=True)
class FirstAnswers:
    """Ratings of first answers, one entry each: by whom it was ordered, how probably, and whose question it is."""

    live: list[bool] = field(default_factory=list)
    propensity: list[float] = field(default_factory=list)
    rating: list[int] = field(default_factory=list)
    question: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Compared:
    """What the ratings say of both orders; None where there are fewer than `MIN_RATED` questions."""

    live_rating: Interval | None
    other_rating: Interval | None
    live_good: Interval | None
    other_good: Interval | None
    rating_difference: Interval | None
    good_difference: Interval | None


def compare(answers: FirstAnswers, *, seed: int = 0) -> Compared:
    """Return what the ratings say of both orders, with 95 % bootstrap intervals."""
    import numpy as np

    live = np.array(answers.live, dtype=bool)
    weight = 1 / np.array(answers.propensity, dtype=np.float64)
    rating = np.array(answers.rating, dtype=np.float64)
    question = np.array(answers.question, dtype=np.intp)
    sides = [live, ~live]
    # By question: for each side the weight, the weighted ratings, and the weight of the good ones.
    columns = [
        np.where(side, weight * value, 0.0) for side in sides for value in (1.0, rating, 1.0 * (rating >= GOOD_RATING))
    ]
    sums = _resampled(_by_question(question, columns), seed)
    enough = [len(np.unique(question[side])) >= MIN_RATED for side in sides]
    live_rating, live_good = (_divided(sums[:, upper], sums[:, 0]) for upper in (1, 2))
    other_rating, other_good = (_divided(sums[:, upper], sums[:, 3]) for upper in (4, 5))
    return Compared(
        live_rating=_interval(live_rating, enough[0]),
        other_rating=_interval(other_rating, enough[1]),
        live_good=_interval(live_good, enough[0]),
        other_good=_interval(other_good, enough[1]),
        rating_difference=_interval(live_rating - other_rating, all(enough)),
        good_difference=_interval(live_good - other_good, all(enough)),
    )


def preference(outcomes: Sequence[int], questions: Sequence[int], *, seed: int = 0) -> Interval | None:
    """Return the mean of outcomes (1 for a win, -1 for a loss) with its interval; None for few questions."""
    import numpy as np

    outcome = np.array(outcomes, dtype=np.float64)
    sums = _resampled(_by_question(np.array(questions, dtype=np.intp), [np.ones(len(outcome)), outcome]), seed)
    return _interval(_divided(sums[:, 1], sums[:, 0]), len(set(questions)) >= MIN_RATED)


def outcome(live: Sequence[int], other: Sequence[int]) -> int:
    """Tell which order's answers in one list were rated higher: 1 the live one's, -1 the other's, 0 neither's.

    Where only one's were rated, it wins by ratings above the middle of the scale, and loses by those below.
    """
    ours = sum(live) / len(live) if live else None
    theirs = sum(other) / len(other) if other else None
    if ours is None and theirs is None:
        return 0
    high = ours if ours is not None else _MIDDLE_RATING
    low = theirs if theirs is not None else _MIDDLE_RATING
    return (high > low) - (high < low)


def _by_question(question: NDArray[np.intp], columns: Sequence[Floats]) -> Floats:
    import numpy as np

    questions = int(question.max(initial=-1)) + 1
    sums = np.stack([np.bincount(question, weights=column, minlength=questions) for column in columns], axis=1)
    # Sums of the same numbers in another order differ in their last bits.
    return np.round(sums, 12)


def _resampled(of_question: Floats, seed: int) -> Floats:
    """Return the sums over all questions, and over each bootstrap draw of them; row 0 is the sample itself.

    Ratings are whole numbers and probabilities few, so of many questions most are of few kinds. How often each kind is
    drawn follows a multinomial distribution: the same bootstrap, without a number for each question in each draw.
    """
    import numpy as np

    kinds, count = np.unique(of_question, axis=0, return_counts=True)
    if not len(count):
        return np.zeros((_DRAWS + 1, of_question.shape[1]))
    rng, questions = np.random.default_rng(seed), len(of_question)
    sums = [count[None, :] @ kinds]
    step = max(1, _BLOCK // len(count))
    for start in range(0, _DRAWS, step):
        sums.append(rng.multinomial(questions, count / questions, size=min(step, _DRAWS - start)) @ kinds)
    return np.concatenate(sums).astype(np.float64)


def _divided(upper: Floats, lower: Floats) -> Floats:
    import numpy as np

    quotient: Floats = np.divide(upper, lower, out=np.full(len(upper), np.nan), where=lower > 0)
    return quotient


def _interval(values: Floats, enough: bool) -> Interval | None:
    from rlhf_loop.training import metrics

    return Interval(*metrics.interval(values)) if enough else None
