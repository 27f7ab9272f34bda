"""Comparison of two models, or of a model and an order, on the same answers, with intervals by question."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from rlhf_loop.domain import Interval
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.reward import RewardModel
from rlhf_loop.training import metrics
from rlhf_loop.training.data import TrainingSet
from rlhf_loop.training.evaluation import Predictions
from rlhf_loop.utils.arrays import Floats, Mask
from rlhf_loop.utils.concurrency import single_threaded_blas


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One measure of two models on the same answers. `difference` is ours less theirs, with its 95 % interval from a
    paired bootstrap over questions; `certainty` is the share of its draws in which ours is better. `questions` counts
    those that the measure can tell anything of.
    """

    measure: str
    questions: int
    answers: int
    ours: float
    theirs: float
    difference: Interval
    certainty: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparisons:
    """Accuracy and AUC over all answers, P@1 over the questions with two or more; None where it is not defined."""

    accuracy: Comparison | None
    auc: Comparison | None
    precision_at_1: Comparison | None


def compare(of: Predictions, theirs: Floats, *, seed: int = 0) -> Comparisons:
    """Compare the probabilities of `of` with `theirs`, one an answer in the same order.

    Equal probabilities keep the incoming order where it is known, as they would when serving.
    """
    order = np.argsort(of.rank, kind="stable")
    of = of.only(order)
    question, rating, label = of.question, of.rating, of.label
    sides = of.probability, theirs[order]
    rivals = np.bincount(question, minlength=1)[question] > 1
    several = of.only(rivals)
    ranked = several.question

    def precision_at_1(probability: Floats, weights: metrics.Weights) -> Floats:
        places = metrics.places(ranked, probability[rivals])
        return metrics.precision_at_1(ranked, rating[rivals], label[rivals], places, weights)

    with single_threaded_blas():
        return Comparisons(
            accuracy=_comparison("accuracy", of, partial(metrics.accuracy, question, label), *sides, seed),
            auc=_comparison("auc", of, partial(metrics.auc, question, label), *sides, seed),
            precision_at_1=_comparison("precision_at_1", several, precision_at_1, *sides, seed),
        )


def against_incoming(of: Predictions, *, seed: int = 0) -> Comparison | None:
    """Compare P@1 with that of the incoming order, over the questions with two or more answers whose ranks are known.

    None where there is no such question.
    """
    known = ~np.isin(of.question, of.question[np.isnan(of.rank)])
    kept = of.only(known)
    return compare(kept, -kept.rank, seed=seed).precision_at_1


def predict(model: RewardModel, data: TrainingSet, rows: Mask, encoder: TextEncoder) -> Floats:
    """Return what the model says of those rated answers, among all candidates of their questions; nan for the others
    and for those whose texts are gone.
    """
    found = np.full(len(data.row), np.nan)
    wanted = np.zeros(len(data.candidates), dtype=np.bool_)
    wanted[data.row[rows]] = True
    place = np.full(len(data.candidates), -1, dtype=np.intp)
    place[data.row[rows]] = np.flatnonzero(rows)
    for chunk in data.chunks():
        kept = chunk.only(wanted)
        if not kept.questions:
            continue
        scores = np.concatenate(model.score(kept.questions, encoder))
        of = place[kept.row]
        found[of[of >= 0]] = scores[of >= 0]
    return found


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
    return Comparison(
        measure=measure,
        questions=len(drawn),
        answers=len(answers.question),
        ours=float(ours[0]),
        theirs=float(theirs[0]),
        difference=Interval(*metrics.interval(ours - theirs)),
        certainty=float((gained > 0).mean()) if len(gained) else 0.0,
    )
