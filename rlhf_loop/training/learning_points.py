"""Models fitted on few, more and all ratings of some questions, each judged on other questions.

What a learning curve is made of, from features that are in memory already.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.domain import Interval
from rlhf_loop.reward import Recipe, RewardClassifier
from rlhf_loop.reward.splitting import folds
from rlhf_loop.training import metrics
from rlhf_loop.training.extrapolation import ENOUGH_POINTS, Outlook, extrapolate
from rlhf_loop.utils.concurrency import one_thread

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Mask = NDArray[np.bool_]

#: The operator's goal for accuracy.
TARGET = 0.80
#: The fewest ratings to fit on, and the most: beyond them a curve is flat, and would only take its time.
FEWEST, MOST = 50, 5_000
#: Each size has so many times the ratings of the one before. Small steps: what chance does to one point is made good by
#: its neighbours.
_STEP = 2**0.5
_FOLDS = 5
#: Those of a training are five. Three take two thirds of the time, and move no point by more than half a percent.
_CALIBRATION_FOLDS = 3
_DRAWS = 500


@dataclass(frozen=True, slots=True)
class Rated:
    """Rated answers with their features: one row each. `prompt` numbers questions, `weight` is what a rating counts."""

    features: NDArray[np.float32]
    label: Ints
    prompt: Ints
    weight: Floats | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """What a model that was fitted on about `rated` answers says of the `held` ones: their probabilities."""

    rated: int
    held: Mask
    probability: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningPoint:
    """The accuracy on other questions of models that were fitted on about `rated` answers, with its 95 % interval."""

    rated: int
    accuracy: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How the accuracy grew with the ratings, and when it will reach the goal; None where the points are too few."""

    points: tuple[LearningPoint, ...] = ()
    outlook: Outlook | None = None


def growth(of: Rated, *, recipe: Recipe, goal: float, seed: int = 0) -> Growth:
    """Measure the accuracy for rising numbers of ratings, and draw the curve out; a second's work at most.

    Nothing comes of too few ratings, or of classes that too few questions have.
    """
    try:
        found = list(fits(of, recipe=recipe, step=_STEP, fold_count=_CALIBRATION_FOLDS, most=MOST, seed=seed))
    except ValueError:
        return Growth()
    parts = len({judged.held.tobytes() for judged in found})
    by_size: dict[int, list[Judged]] = {}
    for judged in found:
        by_size.setdefault(judged.rated, []).append(judged)
    # Where a fold has no model of a size, the others would be judged on other questions than the next size is.
    whole = {size: each for size, each in sorted(by_size.items()) if len(each) == parts}
    if not whole:
        return Growth()
    right = np.zeros((len(whole), len(of.label)))
    for row, each in enumerate(whole.values()):
        for judged in each:
            right[row, judged.held] = (judged.probability >= 0.5) == of.label[judged.held]
    drawn = _draws(of.prompt, right, seed)
    points = tuple(
        LearningPoint(rated=size, accuracy=Interval(*metrics.interval(values)))
        for size, values in zip(whole, drawn, strict=True)
    )
    if len(points) < ENOUGH_POINTS:
        return Growth(points=points)
    outlook = extrapolate(
        np.array(list(whole), dtype=np.float64),
        drawn[:, 0],
        np.cov(drawn[:, 1:]),
        now=len(of.label),
        goal=goal,
    )
    return Growth(points=points, outlook=outlook)


def fits(
    of: Rated, *, recipe: Recipe, step: float, fold_count: int, most: int | None = None, seed: int = 0
) -> Iterator[Judged]:
    """Fit on ever more ratings of four fifths of the questions, and judge on the other fifth, five times.

    Whole questions are drawn, so 50 answers mean as few questions as they would in practice, and what a smaller draw
    has, a larger one has, too. A draw with too few questions of a class to fit anything is left out. `step` is how many
    times the ratings of one size the next one has, `most` where they end (by default with all), and `fold_count` that
    of the classifier, which calibrates itself.

    Raises:
        ValueError: a class has too few questions to leave any out.
    """
    fold = folds(of.prompt, of.label, count=_FOLDS, seed=seed)
    rng = np.random.default_rng(seed)
    parts = np.unique(fold)
    # The smallest of the training parts: all folds have the same sizes.
    there = min(int((fold != part).sum()) for part in parts)
    for part in parts:
        order = rng.permutation(np.unique(of.prompt[fold != part]))
        held = fold == part
        for size in _sizes(there if most is None else min(there, most), step):
            rows = _first_questions(of.prompt, order, size)
            classifier = RewardClassifier(
                penalty_c=recipe.penalty_c, scaled=recipe.scaled, fold_count=fold_count, seed=seed
            )
            weight = None if of.weight is None else of.weight[rows]
            try:
                classifier.fit(of.features[rows], of.label[rows], of.prompt[rows], weight=weight)
            except ValueError:
                continue
            yield Judged(size, held, classifier.predict_proba(of.features[held])[:, 1])


def _sizes(most: int, step: float) -> Sequence[int]:
    sizes, next_one = [], float(FEWEST)
    while round(next_one) < most:
        sizes.append(round(next_one))
        next_one *= step
    return [*sizes, most]


def _first_questions(prompt: Ints, order: Ints, size: int) -> Mask:
    """Return the answers to as many questions as it takes, in that order, to have `size` of them."""
    counts = np.bincount(prompt)[order]
    enough = int(np.searchsorted(np.cumsum(counts), size)) + 1
    chosen: Mask = np.isin(prompt, order[:enough])
    return chosen


def _draws(prompt: Ints, right: Floats, seed: int) -> Floats:
    """Return the share of right answers for each size and each draw of the questions, the sample itself first."""
    question = np.unique(prompt, return_inverse=True)[1]
    with one_thread():
        weights = metrics.bootstrap_weights(int(question.max()) + 1, draws=_DRAWS, seed=seed)
        return np.stack([metrics.mean(question, each, weights) for each in right])
