"""Learning curve: accuracy against the number of rated answers, and how many more ratings a goal takes.

Models are fitted on few, more and all ratings of some questions, each judged on others. Accuracy grows with the number
n of ratings as a - b / n^c, the inverse power law that learning curves of classifiers follow well (Figueroa et al.,
Predicting sample size required for classification performance, 2012). A few noisy points do not settle three numbers,
and the best fit alone would promise too much. So all curves of that form are weighed by how well they agree with the
points: the forecast is their distribution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.domain import Example, Interval, Progress
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.reward import Recipe, prior
from rlhf_loop.reward.splitting import folds
from rlhf_loop.training import metrics
from rlhf_loop.training.data import TrainingSet, assemble
from rlhf_loop.training.evaluation import evaluate
from rlhf_loop.training.fit import read_features, rows_for
from rlhf_loop.utils.arrays import Floats, Ints, Mask
from rlhf_loop.utils.concurrency import single_threaded_blas
from rlhf_loop.utils.extras import require

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


class Prospect(StrEnum):
    """The prospect of reaching the goal: reached already, ahead, out of reach, or unknown."""

    REACHED = "reached"
    AHEAD = "ahead"
    OUT_OF_REACH = "out of reach"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedAccuracy:
    """The accuracy to expect with so many ratings: the middle one of the curves, and the range of most of them."""

    rated: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """A forecast of when the goal is reached: with `ratings` in all, between `low` and `high` in four of five curves.

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
    expected: tuple[ExpectedAccuracy, ...]


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
        expected.append(ExpectedAccuracy(rated=int(place), accuracy=middle, low=low, high=high))
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


@dataclass(frozen=True, slots=True)
class RatedFeatures:
    """Rated answers with their features: one row each, made with the `encoder` of that id.

    `prompt` numbers questions, `weight` is what a rating counts.
    """

    features: NDArray[np.float32]
    label: Ints
    prompt: Ints
    encoder: str
    weight: Floats | None = None


@dataclass(frozen=True, slots=True)
class HeldOutPredictions:
    """Probabilities of the `held` answers by a model that was fitted on about `rated` others."""

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
    """Growth of the accuracy with the ratings, and the forecast for the goal, None where the points are too few."""

    points: tuple[LearningPoint, ...] = ()
    outlook: Outlook | None = None


def growth(of: RatedFeatures, *, recipe: Recipe, goal: float, seed: int = 0) -> Growth:
    """Measure the accuracy for rising numbers of ratings, and draw the curve out; a second's work at most.

    Nothing comes of too few ratings, or of classes that too few questions have.
    """
    try:
        found = list(fits(of, recipe=recipe, step=_STEP, fold_count=_CALIBRATION_FOLDS, most=MOST, seed=seed))
    except ValueError:
        return Growth()
    parts = len({judged.held.tobytes() for judged in found})
    by_size: dict[int, list[HeldOutPredictions]] = {}
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
        np.array(list(whole), dtype=np.float64), drawn[:, 0], np.cov(drawn[:, 1:]), now=len(of.label), goal=goal
    )
    return Growth(points=points, outlook=outlook)


def fits(
    of: RatedFeatures,
    *,
    recipe: Recipe,
    step: float,
    fold_count: int,
    most: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Iterator[HeldOutPredictions]:
    """Fit on ever more ratings of four fifths of the questions, and judge on the other fifth, five times.

    Whole questions are drawn, so 50 answers mean as few questions as they would in practice, and what a smaller draw
    has, a larger one has, too. A draw with too few questions of a class to fit anything is left out. `step` is how many
    times the ratings of one size the next one has, `most` where they end (by default with all), and `fold_count` that
    of the classifier, which calibrates itself. `progress` gets on how many ratings was fitted, and on how many in all.

    Raises:
        ValueError: a class has too few questions to leave any out.
    """
    fold = folds(of.prompt, of.label, count=_FOLDS, seed=seed)
    rng = np.random.default_rng(seed)
    parts = np.unique(fold)
    # The smallest of the training parts: all folds have the same sizes.
    there = min(int((fold != part).sum()) for part in parts)
    sizes, done = _sizes(there if most is None else min(there, most), step), 0
    for part in parts:
        order = rng.permutation(np.unique(of.prompt[fold != part]))
        held = fold == part
        for size in sizes:
            rows = _first_questions(of.prompt, order, size)
            classifier = prior.classifier(recipe, of.encoder, fold_count=fold_count, seed=seed)
            weight = None if of.weight is None else of.weight[rows]
            try:
                classifier.fit(of.features[rows], of.label[rows], of.prompt[rows], weight=weight)
            except ValueError:
                continue
            finally:
                done += size
                if progress:
                    progress(done, len(parts) * sum(sizes))
            yield HeldOutPredictions(size, held, classifier.predict_proba(of.features[held])[:, 1])


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Mean and standard deviation over the folds of models that were fitted on about `rated` answers."""

    rated: int
    accuracy: float
    accuracy_deviation: float
    auc: float
    auc_deviation: float
    precision_at_1: float
    precision_at_1_deviation: float


def learning_curve(
    examples: Sequence[Example] | TrainingSet,
    *,
    recipe: Recipe,
    encoder: TextEncoder,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[CurvePoint]:
    """Fit on 50, 100, 200 ... rated answers of four fifths of the questions, and judge on the other fifth, five times.

    Whole questions are drawn, so 50 answers mean as few questions as they would in practice. Of ratings alone, each
    with its weight: no pairs, which would blur what more ratings bring. `progress` gets how much is read, and how much
    there is; then on how many ratings was fitted, and on how many in all.
    """
    data = (examples if isinstance(examples, TrainingSet) else assemble(examples)).grouped(encoder, progress=progress)
    rows = rows_for(recipe, data, seed=seed)
    found = read_features(data, {recipe.name: rows}, encoder, progress=progress)
    data, features = data.only(rows & found.there), found.features[recipe.name]
    weight = None if (data.weight == 1).all() else data.weight
    rated = RatedFeatures(features, data.label, data.prompt, encoder.id, weight)
    results: dict[int, list[tuple[float, float, float]]] = {}
    for judged in fits(rated, recipe=recipe, step=2, fold_count=5, seed=seed, progress=progress):
        results.setdefault(judged.rated, []).append(_judge(data, judged.held, judged.probability))
    return [_point(size, values) for size, values in sorted(results.items())]


def plot(points: Sequence[CurvePoint], path: Path, *, title: str) -> None:
    """Draw the curve as a picture; the ending of `path` says which kind."""
    # Imported here: matplotlib takes a second, and only this needs it.
    figure = require("matplotlib.figure", "charts").Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    rated = [point.rated for point in points]
    for name, label in (("accuracy", "accuracy"), ("auc", "AUC"), ("precision_at_1", "P@1")):
        mean = np.array([getattr(point, name) for point in points])
        deviation = np.array([getattr(point, f"{name}_deviation") for point in points])
        (line,) = axes.plot(rated, mean, marker="o", label=label)
        axes.fill_between(rated, mean - deviation, mean + deviation, alpha=0.15, color=line.get_color())
    axes.axhline(TARGET, color="grey", linestyle="--", linewidth=1, label=f"target for accuracy, {TARGET:.0%}")
    axes.set(xscale="log", xlabel="rated answers", ylabel="on other questions", title=title)
    axes.set_xticks(rated, [str(size) for size in rated])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


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
    with single_threaded_blas():
        weights = metrics.bootstrap_weights(int(question.max()) + 1, draws=_DRAWS, seed=seed)
        return np.stack([metrics.mean(question, each, weights) for each in right])


def _judge(data: TrainingSet, held: Mask, probability: Floats) -> tuple[float, float, float]:
    measured = evaluate(data.predictions(probability, held), draws=0)
    return measured.accuracy.value, measured.auc.value, measured.orders["model"].precision_at_1.value


def _point(size: int, values: list[tuple[float, float, float]]) -> CurvePoint:
    # A fold may leave a measure undefined: AUC with one class only, P@1 where no question has two rated answers.
    known = np.ma.masked_invalid(values)
    mean, deviation = known.mean(axis=0).filled(np.nan), known.std(axis=0).filled(np.nan)
    return CurvePoint(size, *(float(value) for pair in zip(mean, deviation, strict=True) for value in pair))
