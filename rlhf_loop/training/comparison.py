"""Two models, or a model and an order, on the same answers: differences by question, with their intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.domain import Interval
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.reward import RewardModel
from rlhf_loop.training import metrics
from rlhf_loop.training.data import Mask, TrainingSet
from rlhf_loop.training.evaluation import Predictions
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


def compare(of: Predictions, theirs: NDArray[np.float64], *, seed: int = 0) -> Comparisons:
    """Compare the probabilities of `of` with `theirs`, one an answer in the same order.

    Equal probabilities keep the incoming order where it is known, as they would when serving.
    """
    order = np.argsort(of.rank, kind="stable")
    question = np.unique(of.question[order], return_inverse=True)[1]
    ours, theirs, rating, label = of.probability[order], theirs[order], of.rating[order], of.label[order]
    rivals = np.bincount(question, minlength=1)[question] > 1
    with single_threaded_blas():
        return Comparisons(
            accuracy=_classed("accuracy", question, label, ours, theirs, seed),
            auc=_classed("auc", question, label, ours, theirs, seed),
            precision_at_1=_ranked(question[rivals], rating[rivals], label[rivals], ours[rivals], theirs[rivals], seed),
        )


def against_incoming(of: Predictions, *, seed: int = 0) -> Comparison | None:
    """Compare P@1 with that of the incoming order, over the questions with two or more answers whose ranks are known.

    None where there is no such question.
    """
    known = ~np.isin(of.question, of.question[np.isnan(of.rank)])
    kept = Predictions(of.question[known], of.rating[known], of.probability[known], of.rank[known])
    return compare(kept, -kept.rank, seed=seed).precision_at_1


def predict(model: RewardModel, data: TrainingSet, rows: Mask, encoder: TextEncoder) -> NDArray[np.float64]:
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


def _classed(
    measure: str,
    question: NDArray[np.intp],
    label: NDArray[np.intp],
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    seed: int,
) -> Comparison | None:
    if not len(label):
        return None
    questions = int(question.max()) + 1
    weights = metrics.bootstrap_weights(questions, seed=seed)
    of = {"accuracy": metrics.accuracy, "auc": metrics.auc}[measure]
    values = [of(question, label, probability, weights) for probability in (ours, theirs)]
    return _comparison(measure, questions, len(label), *values)


def _ranked(
    question: NDArray[np.intp],
    rating: NDArray[np.intp],
    label: NDArray[np.intp],
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    seed: int,
) -> Comparison | None:
    if not len(label):
        return None
    question = np.unique(question, return_inverse=True)[1]
    questions = int(question.max()) + 1
    weights = metrics.bootstrap_weights(questions, seed=seed)
    values = [
        metrics.precision_at_1(question, rating, label, metrics.places(question, probability), weights)
        for probability in (ours, theirs)
    ]
    return _comparison("precision_at_1", questions, len(label), *values)


def _comparison(
    measure: str, questions: int, answers: int, ours: NDArray[np.float64], theirs: NDArray[np.float64]
) -> Comparison | None:
    if not np.isfinite([ours[0], theirs[0]]).all():
        return None
    drawn = (ours - theirs)[1:]
    drawn = drawn[np.isfinite(drawn)]
    return Comparison(
        measure=measure,
        questions=questions,
        answers=answers,
        ours=float(ours[0]),
        theirs=float(theirs[0]),
        difference=Interval(*metrics.interval(ours - theirs)),
        certainty=float((drawn > 0).mean()) if len(drawn) else 0.0,
    )
