"""The reviews of answers, and the one rating that each answer gets from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import case, select
from sqlalchemy.engine import Connection

from rlhf_loop.domain import ReviewerRole
from rlhf_loop.store.tables import Review
from rlhf_loop.training.reliability import RaterReliability, reliability

Ints = NDArray[np.intp]

_STREAMED = {"yield_per": 5000}
#: Rounding errors of a sum of weights do not decide which rating is in the middle.
_ROUNDING = 1e-6
_REVIEW = np.dtype([("interaction", np.int64), ("rating", np.intp), ("expert", np.bool_), ("reviewer", np.intp)])


@dataclass(frozen=True, slots=True)
class Reviews:
    """Reviews, one entry each: the number of the answer, the rating, whether it is by an expert, and by which.

    `reviewer` is a place in `names`, which are those of experts in order; -1 for an end user.
    """

    answer: Ints
    rating: Ints
    expert: NDArray[np.bool_]
    reviewer: Ints
    names: tuple[str, ...]

    def only(self, wanted: NDArray[np.bool_]) -> Reviews:
        """Leave out the other reviews."""
        return Reviews(self.answer[wanted], self.rating[wanted], self.expert[wanted], self.reviewer[wanted], self.names)

    def reliability(self) -> dict[str, RaterReliability]:
        """Estimate how far each of the experts can be trusted."""
        experts = self.only(self.expert)
        return reliability(experts.answer, experts.reviewer, experts.rating, self.names)

    def weights(self, raters: Mapping[str, RaterReliability]) -> NDArray[np.float64]:
        """Return what each review counts: as much as its rater, or 1 for one that is not among `raters`."""
        # The last place is that of end users.
        of_rater = [raters[name].weight if name in raters else 1.0 for name in self.names] + [1.0]
        weights: NDArray[np.float64] = np.array(of_rater)[self.reviewer]
        return weights


@dataclass(frozen=True, slots=True)
class Consensus:
    """The rating of each `answer` that has one, and its weight: that of the most reliable of its raters."""

    answer: Ints
    rating: Ints
    weight: NDArray[np.float64]


def read_reviews(connection: Connection, id: NDArray[np.int64], answer: Ints, *, end_users: bool) -> Reviews:
    """Read the reviews of the interactions `id`, which are in order and belong to the answers of those numbers."""
    by_expert = Review.role == ReviewerRole.EXPERT
    name = case((by_expert, Review.reviewer))
    wanted = select(Review.interaction_id, Review.rating, by_expert, name)
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


def _numbers(row: Any, places: dict[str | None, int]) -> tuple[int, int, bool, int]:
    interaction, rating, expert, name = row
    # The end users' place is taken already, and has no part in the counting.
    return interaction, rating, expert, places.setdefault(name, len(places) - 1)


def consensus(answer: Ints, rating: Ints, weight: NDArray[np.float64]) -> Consensus:
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
