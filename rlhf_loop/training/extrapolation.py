"""How many ratings it takes to reach a goal: a learning curve, drawn out beyond what was measured, with its doubts.

Accuracy grows with the number n of ratings as a - b / n^c, the inverse power law that learning curves of classifiers
follow well (Figueroa et al., Predicting sample size required for classification performance, 2012). A few noisy points
do not settle three numbers, and the best fit alone would promise too much. So all curves of that form are weighed by
how well they agree with the points: what is said of the future is what these curves say, and how far they differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Beyond so many times the ratings that there are, nothing is promised.
HORIZON = 10
#: Sizes that it takes to see a bend.
ENOUGH_POINTS = 3
#: What lies between these shares of the curves is the range that is told: four in five.
RANGE = (0.1, 0.9)

#: The curves: where they begin and end, in equal steps, and how fast they get there. At 1 each doubling halves what is
#: missing; below 0.2 a curve looks like a straight line over any range that can be measured.
_GRID_STEP = 0.005
_EXPONENTS = np.linspace(0.2, 1.0, 9)
#: Which answers a model was fitted on is chance, too: it moves the accuracy by about this, divided by the root of their
#: number; and no curve has the form exactly.
_OF_DRAWS, _OF_FORM = 0.15, 0.005
#: Curves less likely than the best one by this factor are left out.
_LEAST, _FARTHEST = 1e-5, 6
#: Beyond what was measured.
_PLACES = 20


class Prospect(StrEnum):
    """What more ratings bring: the goal is reached already, it will be, it will not, or nobody can tell."""

    REACHED = "reached"
    AHEAD = "ahead"
    OUT_OF_REACH = "out of reach"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The accuracy to expect with so many ratings: the middle one of the curves, and the range of most of them."""

    rated: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """When the goal is reached: with `ratings` in all, between `low` and `high` in four of five curves.

    None stands for more than HORIZON times the ratings that there are now, or never. `chance` is the share of curves
    that reach the goal before. `expected` has the sizes that were measured, and others up to the horizon.
    """

    prospect: Prospect
    goal: float
    now: int
    ratings: int | None
    low: int | None
    high: int | None
    chance: float
    expected: tuple[Expected, ...]


def extrapolate(sizes: Floats, accuracy: Floats, covariance: Floats, *, now: int, goal: float) -> Outlook:
    """Say when a learning curve reaches the goal.

    Args:
        sizes: ratings that models were fitted on, rising, shape (k,).
        accuracy: what they reached on other questions (k,).
        covariance: of those, from the choice of the questions (k, k). The same questions judge all sizes, so that the
            points go up and down together.
        now: ratings that a model is fitted on today.
        goal: the accuracy to reach.
    """
    end, begin, exponent, share = _curves(sizes, accuracy, covariance)
    beyond = np.geomspace(sizes[-1], max(HORIZON * now, sizes[-1]), _PLACES).round()
    places = np.unique(np.concatenate([sizes, beyond]))
    expected = []
    for place in places:
        value = end - (end - begin) * (sizes[0] / place) ** exponent
        low, middle, high = _quantiles(value, share, (RANGE[0], 0.5, RANGE[1]))
        expected.append(Expected(rated=int(place), accuracy=middle, low=low, high=high))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        needed = sizes[0] * ((end - begin) / (end - goal)) ** (1 / exponent)
    needed = np.where(begin >= goal, sizes[0], np.where(end > goal, needed, np.inf))
    needed = np.where(needed > HORIZON * now, np.inf, needed)
    low, middle, high = _quantiles(needed, share, (RANGE[0], 0.5, RANGE[1]))
    return Outlook(
        prospect=_prospect(len(sizes), low, middle, now),
        goal=goal,
        now=now,
        ratings=_whole(middle),
        low=_whole(low),
        high=_whole(high),
        chance=float(share[np.isfinite(needed)].sum()),
        expected=tuple(expected),
    )


def _curves(sizes: Floats, accuracy: Floats, covariance: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Return for each curve its end, its value at the first size, its exponent, and its share of what is believed."""
    doubt = covariance + np.diag(_OF_DRAWS**2 / sizes + _OF_FORM**2)
    levels = np.arange(0.0, 1.0 + _GRID_STEP / 2, _GRID_STEP)
    # A curve that begins farther off is less likely than the best one by more than _LEAST, wherever it goes.
    near = levels[np.abs(levels - accuracy[0]) <= _GRID_STEP + _FARTHEST * np.sqrt(doubt[0, 0])]
    end, begin, exponent = (each.ravel() for each in np.meshgrid(levels, near, _EXPONENTS, indexing="ij"))
    rising = end >= begin
    end, begin, exponent = end[rising], begin[rising], exponent[rising]
    # The rows of this matrix make the points independent, with deviation 1.
    apart = np.linalg.inv(np.linalg.cholesky(doubt))
    fall = (sizes[0] / sizes) ** exponent[:, np.newaxis]
    off = (end[:, np.newaxis] - (end - begin)[:, np.newaxis] * fall - accuracy) @ apart.T
    misfit = np.einsum("ij,ij->i", off, off) / 2
    share = np.exp(misfit.min() - misfit)
    # The others are too many to carry along, and too improbable to matter all together.
    likely = share > _LEAST
    return end[likely], begin[likely], exponent[likely], share[likely] / share[likely].sum()


def _prospect(points: int, low: float, middle: float, now: int) -> Prospect:
    if points < ENOUGH_POINTS:
        return Prospect.UNKNOWN
    if middle <= now:
        return Prospect.REACHED
    if not np.isfinite(low):
        return Prospect.OUT_OF_REACH
    return Prospect.AHEAD if np.isfinite(middle) else Prospect.UNKNOWN


def _quantiles(values: Floats, share: Floats, wanted: tuple[float, ...]) -> list[float]:
    order = np.argsort(values)
    reached = np.cumsum(share[order])
    places = np.minimum(np.searchsorted(reached, wanted), len(order) - 1)
    return [float(value) for value in values[order][places]]


def _whole(value: float) -> int | None:
    return round(value) if np.isfinite(value) else None
