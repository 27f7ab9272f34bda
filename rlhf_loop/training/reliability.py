"""Reliability of raters, estimated from the answers that several experts rated, and the consensus rating of an answer.

A careless or hostile rater teaches the model nonsense, and moves the very numbers that it is judged by. Some answers
are given to several raters on purpose (`RLHF_REVIEW_OVERLAP`). An expert who contradicts the others there more often
than experts err counts less, down to nothing; never the other way round: a hostile rater is left out, not inverted.

The model is that of Dawid and Skene (1979) for two classes, good (rating >= 4) and not: an answer has a true class,
and each rater names it with two probabilities of their own, one for each class, independently of the others. They are
fitted by EM with a Beta prior that trusts raters (Raykar et al. 2010). A rater's accuracy is the mean of the two: 1 for
a faultless one, one half for random or constant ratings, 0 for the opposite.

A rater is trusted until that is untenable: what counts is the upper end of the accuracy's 90 % interval, the largest
one that the reviews still allow whatever the others are like (the profile of the posterior; Murphy and van der Vaart
2000). Two who always contradict each other can both be right as far as can be told, so both keep their weight.

What this cannot see: a majority that errs or cheats together, since what most say is taken for the truth; raters who
copy each other, who look like independent witnesses; hostile ratings where nobody else rates; and a change over time,
as all reviews of a rater are judged as one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import case, select
from sqlalchemy.engine import Connection

from rlhf_loop.domain import GOOD_RATING, ReviewerRole
from rlhf_loop.store.tables import Review
from rlhf_loop.utils.arrays import Floats, Ints, Mask

#: Shared answers below which nobody is doubted.
ENOUGH_SHARED = 10
#: An accuracy from which on a rater counts in full, and one up to which not at all; in between in proportion. Experts
#: who agree with each other on 85 % of the answers are beyond the first, chance is below the second.
FULL, NOTHING = 0.8, 0.6
#: A weight below this is none: so little can hardly teach, but would still decide what a model is judged by.
LEAST_WEIGHT = 0.2
#: The prior: as if each rater had been right so often, and wrong so often, on answers of either class.
_RIGHT, _WRONG = 4.0, 0.5
#: Half the 90 % point of chi-squared with one degree of freedom: only the upper end of the interval counts.
_TENABLE = 1.353
_STEPS = 20
_ITERATIONS = 500
_CONVERGED = 1e-4
_STREAMED = {"yield_per": 5000}
#: Rounding errors of a sum of weights do not decide which rating is in the middle.
_ROUNDING = 1e-6
_REVIEW = np.dtype([("interaction", np.int64), ("rating", np.intp), ("expert", np.bool_), ("reviewer", np.intp)])


@dataclass(frozen=True, slots=True, kw_only=True)
class RaterReliability:
    """An expert's estimated accuracy, and the `weight` of their reviews, from 0 to 1.

    `overlapping` counts their answers that others rated, too. `accuracy` is estimated from these, `at_most` the upper
    end of its 90 % interval, which decides; it is 1 where the accuracy alone suffices for the full weight.
    """

    reviewer: str
    overlapping: int
    accuracy: float
    at_most: float
    weight: float


def reliability(answer: Ints, reviewer: Ints, rating: Ints, names: Sequence[str]) -> dict[str, RaterReliability]:
    """Estimate how far each of the raters `names` can be trusted, in the order of the names.

    The arrays have one entry a review by an expert: a number for the answer, the place of the reviewer among the
    names, and the rating. Of several reviews of one answer by one rater each counts.
    """
    shared = np.bincount(answer, minlength=1)[answer] > 1
    alone = _only_own(answer, reviewer) if shared.any() else shared
    shared &= ~alone
    overlapping = np.bincount(reviewer[shared], minlength=len(names))
    votes = _Votes(answer[shared], reviewer[shared], rating[shared] >= GOOD_RATING, len(names))
    found = _accuracies(votes, overlapping)
    return {
        name: RaterReliability(
            reviewer=name, overlapping=int(count), accuracy=accuracy, at_most=at_most, weight=_weight(at_most)
        )
        for name, count, (accuracy, at_most) in zip(names, overlapping, found, strict=True)
    }


@dataclass(frozen=True, slots=True)
class Reviews:
    """Reviews, one entry each: the number of the answer, the rating, whether it is by an expert, and by which.

    `reviewer` is a place in `names`, which are those of experts in order; -1 for an end user.
    """

    answer: Ints
    rating: Ints
    expert: Mask
    reviewer: Ints
    names: tuple[str, ...]

    def only(self, wanted: Mask) -> Reviews:
        """Leave out the other reviews."""
        return Reviews(self.answer[wanted], self.rating[wanted], self.expert[wanted], self.reviewer[wanted], self.names)

    def reliability(self) -> dict[str, RaterReliability]:
        """Estimate how far each of the experts can be trusted."""
        experts = self.only(self.expert)
        return reliability(experts.answer, experts.reviewer, experts.rating, self.names)

    def weights(self, raters: Mapping[str, RaterReliability]) -> Floats:
        """Return what each review counts: as much as its rater, or 1 for one that is not among `raters`."""
        # The last place is that of end users.
        of_rater = [raters[name].weight if name in raters else 1.0 for name in self.names] + [1.0]
        weights: Floats = np.array(of_rater)[self.reviewer]
        return weights


@dataclass(frozen=True, slots=True)
class Consensus:
    """The rating of each `answer` that has one, and its weight: that of the most reliable of its raters."""

    answer: Ints
    rating: Ints
    weight: Floats


def read_reviews(connection: Connection, id: NDArray[np.int64], answer: Ints, *, end_users: bool) -> Reviews:
    """Read the reviews of the interactions `id`, which are in order and belong to the answers of those numbers."""
    by_expert = Review.role == ReviewerRole.EXPERT
    name = case((by_expert, Review.reviewer))
    wanted = select(Review.interaction_key, Review.rating, by_expert, name)
    rows = connection.execute(wanted if end_users else wanted.where(by_expert), execution_options=_STREAMED)
    places: dict[str | None, int] = {None: -1}
    reviews = np.fromiter((_numbers(row, places) for row in rows), dtype=_REVIEW)
    if not len(id):
        reviews = reviews[:0]
    names = sorted(name for name in places if name is not None)
    # By name and not as they came, which may differ from one time to the next. The last place is that of end users.
    renamed = np.full(len(places), -1, dtype=np.intp)
    renamed[[places[name] for name in names]] = np.arange(len(names))
    at = np.minimum(np.searchsorted(id, reviews["interaction"]), max(len(id) - 1, 0))
    known = id[at] == reviews["interaction"]
    reviews, at = reviews[known], at[known]
    return Reviews(answer[at], reviews["rating"], reviews["expert"], renamed[reviews["reviewer"]], tuple(names))


def consensus(answer: Ints, rating: Ints, weight: Floats) -> Consensus:
    """Return for each answer the middle one of its ratings by weight; of two the lower, as the triggers have it.

    Reviews of weight 0 have no say; an answer with no others is left out.
    """
    counted = np.flatnonzero(weight > 0)
    order = counted[np.lexsort((rating[counted], answer[counted]))]
    answer, rating, weight = answer[order], rating[order], weight[order]
    which, start, count = np.unique(answer, return_index=True, return_counts=True)
    if not len(which):
        return Consensus(which, rating, weight)
    before = np.cumsum(weight) - weight
    reached = before + weight - np.repeat(before[start], count)
    enough = reached >= np.repeat(np.add.reduceat(weight, start), count) / 2 - _ROUNDING
    # The first of each answer's that reaches half of all: those before it do not.
    middle = start + count - np.add.reduceat(enough.astype(np.intp), start)
    return Consensus(which, rating[middle], np.maximum.reduceat(weight, start))


def _only_own(answer: Ints, reviewer: Ints) -> Mask:
    """Return which reviews are of answers that one rater alone has rated, maybe several times."""
    low, high = np.full((2, int(answer.max(initial=-1)) + 1), -1, dtype=np.intp)
    low[:] = np.iinfo(np.intp).max
    np.minimum.at(low, answer, reviewer)
    np.maximum.at(high, answer, reviewer)
    own: Mask = (low == high)[answer]
    return own


def _weight(accuracy: float) -> float:
    # In hundredths: whatever the order of a sum, the same reviews give the same weight, to the last bit.
    weight = round(min(max((accuracy - NOTHING) / (FULL - NOTHING), 0.0), 1.0), 2)
    return weight if weight >= LEAST_WEIGHT else 0.0


def _accuracies(votes: _Votes, overlapping: Ints) -> list[tuple[float, float]]:
    if not votes.count.size:
        return [(_RIGHT / (_RIGHT + _WRONG), 1.0)] * len(overlapping)
    best = votes.fitted(votes.by_majority())
    found = []
    for rater, (accuracy, shared) in enumerate(zip(best.accuracy.tolist(), overlapping.tolist(), strict=True)):
        doubted = shared >= ENOUGH_SHARED and accuracy < FULL
        found.append((accuracy, votes.upper_end(rater, best) if doubted else 1.0))
    return found


@dataclass(frozen=True, slots=True)
class _Fit:
    """A fit: how probable it is, up to a constant, how sure each pattern's class is, and what each rater is worth."""

    quality: float
    good: Floats
    accuracy: Floats


class _Votes:
    """Votes of raters that answers are good. Answers that got the same votes by the same raters are one pattern."""

    def __init__(self, answer: Ints, reviewer: Ints, good: Mask, raters: int) -> None:
        self._raters = raters
        # A random number for each rater's yes and no: their sum names a pattern, the same whatever the order.
        number = np.random.default_rng(0).integers(2**63, size=(raters, 2), dtype=np.uint64)
        answer = np.unique(answer, return_inverse=True)[1]
        pattern = np.zeros(int(answer.max(initial=-1)) + 1, dtype=np.uint64)
        np.add.at(pattern, answer, number[reviewer, good.astype(np.intp)])
        _, first, place, count = np.unique(pattern, return_index=True, return_inverse=True, return_counts=True)
        chosen = first[place[answer]] == answer
        #: How many answers have each pattern.
        self.count: Floats = count.astype(np.float64)
        self._pattern, self._rater, self._good = place[answer[chosen]], reviewer[chosen], good[chosen]

    def by_majority(self) -> Floats:
        """Return the share of the votes for good, a first guess."""
        votes: Floats = np.bincount(self._pattern, minlength=len(self.count)).astype(np.float64)
        return np.bincount(self._pattern, weights=self._good, minlength=len(self.count)) / votes

    def upper_end(self, rater: int, best: _Fit) -> float:
        """Return the largest accuracy of a rater that is still tenable, going down from a faultless one."""
        own = self._rater == rater
        word = self.by_majority()
        word[self._pattern[own]] = self._good[own]
        # The class of the answers may be the one found before, or all that the rater says.
        starts = [best.good, word]
        above, lost_above = 1.0, np.inf
        for step in range(1, _STEPS):
            accuracy = 1 - step / _STEPS
            fits = [self.fitted(start, fixed=(rater, accuracy)) for start in starts]
            lost, starts = best.quality - max(fit.quality for fit in fits), [fit.good for fit in fits]
            if lost <= _TENABLE:
                share = (lost_above - _TENABLE) / (lost_above - lost) if np.isfinite(lost_above) else 0.0
                return above + (accuracy - above) * share
            above, lost_above = accuracy, lost
        return 0.0

    def fitted(self, good: Floats, *, fixed: tuple[int, float] | None = None) -> _Fit:
        """Fit by EM from a first guess of each pattern's class; with the accuracy of one rater fixed, if wanted."""
        quality = -np.inf
        for _ in range(_ITERATIONS):
            share, right = self._maximised(good, fixed)
            before, (quality, good) = quality, self._expected(share, right)
            if quality - before < _CONVERGED:
                break
        return _Fit(quality, good, right.mean(axis=0))

    def _maximised(self, good: Floats, fixed: tuple[int, float] | None) -> tuple[float, Floats]:
        """Return the share of good answers, and how often each rater is right, shape (class, rater): not good, good."""
        right = np.empty((2, self._raters))
        times = []
        for kind, sure in enumerate((1 - good, good)):
            sure = (sure * self.count)[self._pattern]
            agreed = np.bincount(self._rater, weights=sure * (self._good == kind), minlength=self._raters) + _RIGHT
            other = np.bincount(self._rater, weights=sure * (self._good != kind), minlength=self._raters) + _WRONG
            right[kind] = agreed / (agreed + other)
            times.append((agreed, other))
        if fixed:
            rater, accuracy = fixed
            (agreed_0, other_0), (agreed_1, other_1) = ((float(a[rater]), float(b[rater])) for a, b in times)
            right[:, rater] = _with_mean(accuracy, agreed_0, other_0, agreed_1, other_1)
        return float((self.count @ good + 1) / (self.count.sum() + 2)), right

    def _expected(self, share: float, right: Floats) -> tuple[float, Floats]:
        """Return how probable the votes and the raters are, and how sure it is that each pattern is good."""
        # Whoever says good is right if it is, and wrong if it is not.
        said = np.where(self._good, right[1, self._rater], 1 - right[1, self._rater])
        if_good = np.log(share) + np.bincount(self._pattern, weights=np.log(said), minlength=len(self.count))
        said = np.where(self._good, 1 - right[0, self._rater], right[0, self._rater])
        if_not = np.log1p(-share) + np.bincount(self._pattern, weights=np.log(said), minlength=len(self.count))
        either = np.logaddexp(if_good, if_not)
        prior = _RIGHT * np.log(right).sum() + _WRONG * np.log1p(-right).sum() + np.log(share) + np.log1p(-share)
        return float(self.count @ either + prior), np.exp(if_good - either)


def _with_mean(mean: float, agreed_0: float, other_0: float, agreed_1: float, other_1: float) -> tuple[float, float]:
    """Return the two most probable shares with that mean: by bisection, as the derivative falls all the way."""
    low, high = max(0.0, 2 * mean - 1), min(1.0, 2 * mean)
    for _ in range(60):
        first = (low + high) / 2
        second = 2 * mean - first
        if agreed_0 / first - other_0 / (1 - first) - agreed_1 / second + other_1 / (1 - second) > 0:
            low = first
        else:
            high = first
    return first, second


def _numbers(row: Any, places: dict[str | None, int]) -> tuple[int, int, bool, int]:
    interaction, rating, expert, name = row
    # The end users' place is taken already, and has no part in the counting.
    return interaction, rating, expert, places.setdefault(name, len(places) - 1)
