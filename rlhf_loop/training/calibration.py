"""Does a score of 0.7 mean that seven of ten such answers are good? Predicted and given, bin by bin of the scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.domain import Interval
from rlhf_loop.training.metrics import CALIBRATION_BINS

BINS = CALIBRATION_BINS


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Answers with like scores: how many, the mean of their scores, and how many of them were rated 4 or 5."""

    answers: int
    predicted: float
    good: int

    @property
    def share(self) -> Interval:
        """The share of good ones with its 95 % interval by Wilson, which holds for few answers, too."""
        from scipy.stats import binomtest

        found = binomtest(self.good, self.answers).proportion_ci(method="wilson")
        return Interval(self.good / self.answers, float(found.low), float(found.high))


def bins(probability: NDArray[np.float64], label: NDArray[np.intp]) -> tuple[Bin, ...]:
    """Put answers into ten bins of equal width, the lowest scores first; bins without any are left out.

    Args:
        probability: what was predicted, from 0 to 1.
        label: 1 for a good answer, 0 for any other.
    """
    place = np.minimum((probability * BINS).astype(np.intp), BINS - 1)
    answers, predicted, good = (
        np.bincount(place, weights=weights, minlength=BINS) for weights in (None, probability, label)
    )
    return tuple(
        Bin(answers=int(count), predicted=float(total / count), good=int(right))
        for count, total, right in zip(answers, predicted, good, strict=True)
        if count
    )


def expected_error(of: Sequence[Bin]) -> float:
    """Return the expected calibration error (Guo et al. 2017): how far predicted and given are apart, on average."""
    answers = sum(each.answers for each in of)
    return sum(abs(each.answers * each.predicted - each.good) for each in of) / answers


def lean(of: Sequence[Bin]) -> float:
    """Return how much higher the scores are on average than the share of good answers; below 0 they are lower."""
    return sum(each.answers * each.predicted - each.good for each in of) / sum(each.answers for each in of)
