"""Comparison of two models, or of a model and an order, on the same answers, with intervals by question."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.domain import Interval, Progress
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.reward import RewardModel
from rlhf_loop.training import metrics
from rlhf_loop.training.data import TrainingSet
from rlhf_loop.training.evaluation import Predictions
from rlhf_loop.utils.arrays import Floats, Ints, Mask
from rlhf_loop.utils.concurrency import single_threaded_blas

_OrderMeasure = Callable[[Ints, Ints, Ints, Ints, metrics.Weights], Floats]

#: How probable it may be that a model that knows nothing would follow the ratings as closely (`by_chance`). Where few
#: answers are bad, many an order by chance looks better than another one.
CHANCE = 0.01
#: A difference that is no more than the rounding of a sum is none.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One measure of two models on the same answers. `difference` is ours less theirs, with its 95 % interval from a
    paired bootstrap over questions; `certainty` is the share of its draws in which ours is better, `doubt` the share in
    which theirs is. `questions` counts those that the measure can tell anything of.
    """

    measure: str
    questions: int
    answers: int
    ours: float
    theirs: float
    difference: Interval
    certainty: float
    doubt: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparisons:
    """Accuracy and AUC over all answers; P@1, NDCG and the share of pairs in the right order (`concordance`) over the
    questions with two or more. None where it is not defined, or not asked for.
    """

    accuracy: Comparison | None = None
    auc: Comparison | None = None
    precision_at_1: Comparison | None = None
    ndcg: Comparison | None = None
    concordance: Comparison | None = None

    def named(self) -> dict[str, Comparison | None]:
        """Return all of them by the names that people know."""
        return {
            "Accuracy": self.accuracy,
            "AUC": self.auc,
            "P@1": self.precision_at_1,
            "NDCG": self.ndcg,
            "Pairs in order": self.concordance,
        }


def compare(of: Predictions, theirs: Floats, *, seed: int = 0) -> Comparisons:
    """Compare the probabilities of `of` with `theirs`, one an answer in the same order.

    Equal probabilities keep the incoming order where it is known, as they would when serving.
    """
    order = np.argsort(of.rank, kind="stable")
    of, theirs = of.only(order), theirs[order]
    with single_threaded_blas():
        accuracy = partial(metrics.accuracy, of.question, of.label)
        return replace(
            _orders(of, theirs, seed),
            accuracy=_comparison("accuracy", of, accuracy, of.probability, theirs, seed),
            auc=_auc(of, theirs, seed),
        )


def auc_beside(of: Predictions, theirs: Floats, *, seed: int = 0) -> Comparison | None:
    """Compare the AUC of the probabilities of `of` with that of `theirs`; None where it is not defined."""
    with single_threaded_blas():
        return _auc(of, theirs, seed)


def against_incoming(of: Predictions, *, seed: int = 0) -> Comparisons:
    """Compare the order with the incoming one, of the answers whose ranks are known, over questions with several."""
    known = of.only(np.isfinite(of.rank))
    known = known.only(np.argsort(known.rank, kind="stable"))
    with single_threaded_blas():
        return _orders(known, -known.rank, seed)


def by_chance(of: Predictions) -> float:
    """Return how probable it is that a model that knows nothing would follow the ratings as closely.

    By the rank correlation (Spearman 1904) of the probabilities with the ratings, or with what is good and what is not,
    one-sided. Few answers of one kind make it large, as they should: of four bad ones chance may well put three last.
    1 where all say the same.
    """
    varied = [each for each in (of.rating, of.label) if len(np.unique(each)) > 1]
    if len(np.unique(of.probability)) < 2:
        return 1.0
    return min((_correlated(_ranks(of.probability), _ranks(each)) for each in varied), default=1.0)


def _correlated(first: Floats, second: Floats) -> float:
    """Return how probable a correlation at least as large is where there is none, one-sided (Student 1908).

    Of n pairs the correlation sin a has then the density of cos(a) ** (n - 3).
    """
    count = len(first)
    if count < 3:
        return 1.0
    angle = math.asin(max(-1.0, min(1.0, float(np.corrcoef(first, second)[0, 1]))))
    sine, cosine = math.sin(angle), math.cos(angle)
    # The integral of cos ** power from 0, two powers more in each step: up to that angle, and up to a right one.
    part, whole, power = (angle, math.pi / 2, 0) if count % 2 else (sine, 1.0, 1)
    while power < count - 3:
        power += 2
        part = (cosine ** (power - 1) * sine + (power - 1) * part) / power
        whole *= (power - 1) / power
    return max(0.0, 0.5 - part / whole / 2)


def by_chance_within(of: Predictions) -> float:
    """Return how probable it is that a model that knows nothing would order each question's answers as well.

    By ranks within each question, and the sum of their products over the questions (van Elteren 1960): it knows nothing
    of which questions have good answers, and loses nothing by scores of different models for different questions. 1
    where no question has answers that differ in score and in rating.
    """
    size = np.bincount(of.question)[of.question]
    scores = _ranks_within(of.question, of.probability) / (size + 1)
    found = 1.0
    for given in (of.rating, of.label):
        grades = _ranks_within(of.question, given) / (size + 1)
        squares = (np.bincount(of.question, each**2) for each in (scores, grades))
        # Of all orders by lot of a question's answers.
        variance = np.prod(list(squares), axis=0) / np.maximum(1, np.bincount(of.question) - 1)
        if variance.sum() > _ROUNDING:
            found = min(found, math.erfc(float(scores @ grades / np.sqrt(2 * variance.sum()))) / 2)
    return found


def predict(
    model: RewardModel, data: TrainingSet, rows: Mask, encoder: TextEncoder, *, progress: Progress | None = None
) -> Floats:
    """Return what the model says of those rated answers, among all candidates of their questions; nan for the others
    and for those whose texts are gone. `progress` gets how many candidates are done, and how many there are.
    """
    found = np.full(len(data.row), np.nan)
    wanted = np.zeros(len(data.candidates), dtype=np.bool_)
    wanted[data.row[rows]] = True
    place = np.full(len(data.candidates), -1, dtype=np.intp)
    place[data.row[rows]] = np.flatnonzero(rows)
    for chunk in data.chunks():
        kept = chunk.only(wanted)
        if kept.questions:
            scores = np.concatenate(model.score(kept.questions, encoder))
            of = place[kept.row]
            found[of[of >= 0]] = scores[of >= 0]
        if progress is not None and len(chunk.row):
            progress(int(chunk.row[-1]) + 1, len(data.candidates))
    if progress is not None:
        progress(len(data.candidates), len(data.candidates))
    return found


def _ranks_within(question: Ints, values: NDArray[np.generic]) -> Floats:
    """Return the rank of each value among those of its question, less the mean of these ranks; ties share theirs."""
    place = np.unique(np.stack([question, np.unique(values, return_inverse=True)[1]]), axis=1, return_inverse=True)[1]
    ranks = _ranks(place)
    return ranks - (np.bincount(question, ranks) / np.bincount(question))[question]


def _ranks(values: NDArray[np.generic]) -> Floats:
    """Return the rank of each value, from 1; equal ones share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(count) - (count - 1) / 2)[place]
    return ranks


def _auc(of: Predictions, theirs: Floats, seed: int) -> Comparison | None:
    return _comparison("auc", of, partial(metrics.auc, of.question, of.label), of.probability, theirs, seed)


def _orders(of: Predictions, theirs: Floats, seed: int) -> Comparisons:
    """Compare orders; equal keys keep the order of the rows."""

    def found(name: str, measure: _OrderMeasure, questions: Mask) -> Comparison | None:
        rows = questions[of.question]
        kept = of.only(rows)

        def measured(key: Floats, weights: metrics.Weights) -> Floats:
            return measure(kept.question, kept.rating, kept.label, metrics.places(kept.question, key), weights)

        return _comparison(name, kept, measured, kept.probability, theirs[rows], seed)

    questions = int(of.question.max(initial=-1)) + 1
    best, worst = np.full(questions, -np.inf), np.full(questions, np.inf)
    np.maximum.at(best, of.question, of.rating)
    np.minimum.at(worst, of.question, of.rating)
    several = np.bincount(of.question, minlength=questions) > 1
    # Where nothing has a gain, or all are rated alike, no order is better than another.
    return Comparisons(
        precision_at_1=found("precision_at_1", metrics.precision_at_1, several),
        ndcg=found("ndcg", metrics.ndcg, several & (best > 1)),
        concordance=found("concordance", metrics.concordance, best > worst),
    )


def _comparison(
    measure: str,
    answers: Predictions,
    of: Callable[[Floats, metrics.Weights], Floats],
    ours: Floats,
    theirs: Floats,
    seed: int,
) -> Comparison | None:
    if not len(answers.question):
        return None
    drawn = answers.drawn
    weights = metrics.of_questions(metrics.bootstrap_weights(int(drawn.max()) + 1, seed=seed), drawn)
    ours, theirs = (of(probability, weights) for probability in (ours, theirs))
    if not np.isfinite([ours[0], theirs[0]]).all():
        return None
    gained = (ours - theirs)[1:]
    gained = gained[np.isfinite(gained)]
    better, worse = (float((each > _ROUNDING).mean()) if len(each) else 0.0 for each in (gained, -gained))
    return Comparison(
        measure=measure,
        questions=len(drawn),
        answers=len(answers.question),
        ours=float(ours[0]),
        theirs=float(theirs[0]),
        difference=Interval(*metrics.interval(ours - theirs)),
        certainty=better,
        doubt=worse,
    )
