"""Evaluation of predictions, with intervals, beside other orders of the same answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rlhf_loop.domain import GOOD_RATING, Interval
from rlhf_loop.training import metrics
from rlhf_loop.utils.arrays import Floats, Ints, Mask
from rlhf_loop.utils.concurrency import single_threaded_blas
from rlhf_loop.utils.text import html_table

#: Questions with two or more rated answers from which on an order is judged by them.
ENOUGH_QUESTIONS = 10
_MEASURES = {
    "accuracy": metrics.accuracy,
    "auc": metrics.auc,
    "precision": metrics.precision,
    "recall": metrics.recall,
    "brier": metrics.brier,
    "calibration_error": metrics.calibration_error,
}


@dataclass(frozen=True, slots=True)
class Predictions:
    """Rated answers and what a model that was not fitted on them says of each.

    All arrays have one entry an answer: `question` numbers from 0 without gaps, `rating` 1-5, `probability` of being
    correct, `rank` in the incoming order (nan where unknown). Questions with the same number in `group` ask for the
    same, and are drawn together by the bootstrap: in two wordings, what one question proves is not proved twice.
    """

    question: Ints
    rating: Ints
    probability: Floats
    rank: Floats
    group: Ints | None = None

    @property
    def label(self) -> Ints:
        """1 for a correct answer, 0 for any other."""
        return (self.rating >= GOOD_RATING).astype(np.intp)

    @property
    def drawn(self) -> Ints:
        """For each question the number of its group, from 0 in the order of the first questions."""
        group = (self.question if self.group is None else self.group)[np.unique(self.question, return_index=True)[1]]
        first, number = np.unique(group, return_index=True, return_inverse=True)[1:]
        in_order: Ints = np.argsort(np.argsort(first))[number]
        return in_order

    def only(self, rows: Mask | Ints) -> Predictions:
        """Keep some rows, and number their questions anew."""
        question = np.unique(self.question[rows], return_inverse=True)[1]
        group = None if self.group is None else self.group[rows]
        return Predictions(question, self.rating[rows], self.probability[rows], self.rank[rows], group)


@dataclass(frozen=True, slots=True)
class Order:
    """Measures of one order of the candidates: means over questions."""

    precision_at_1: Interval
    ndcg: Interval
    mrr: Interval


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Measures of one set of predictions. Intervals are 95 %, from a bootstrap over questions.

    `orders` has model, random and oracle (the best that any order could do), each over the questions with two or more
    rated answers (`ranked_questions`), and incoming of the answers whose incoming rank is known, where a question has
    two or more of them (`incoming_questions`). `gain` is P@1 of the model minus that of the incoming order on these.
    """

    answers: int
    questions: int
    ranked_questions: int
    incoming_questions: int
    accuracy: Interval
    auc: Interval
    precision: Interval
    recall: Interval
    brier: Interval
    calibration_error: Interval
    orders: Mapping[str, Order]
    gain: Interval | None

    def _repr_html_(self) -> str:
        said = (
            f"{self.answers} rated answers to {self.questions} questions, {self.ranked_questions} of them with two or "
            "more. In brackets: 95 % intervals."
        )
        model, incoming = self.orders["model"], self.orders.get("incoming")
        rows = [
            ("Accuracy", self.accuracy, "-"),
            ("AUC", self.auc, "-"),
            ("P@1", model.precision_at_1, incoming.precision_at_1 if incoming else "-"),
            ("NDCG", model.ndcg, incoming.ndcg if incoming else "-"),
        ]
        return html_table(("", "this model", f"incoming order ({self.incoming_questions})"), rows, above=[said])


def evaluate(predictions: Predictions, *, seed: int = 0, draws: int | None = None) -> Evaluation:
    """Measure predictions; `seed` and `draws` are the bootstrap's. Without draws (0) the intervals are nan."""
    with single_threaded_blas():
        return _evaluate(predictions, _Bootstrap(seed, draws))


def coverage(predictions: Predictions) -> tuple[metrics.Coverage, ...]:
    """Return what each threshold of the first score leaves of the questions with two or more rated answers."""
    of = _in_order(predictions, _with_rivals(predictions.question))
    return metrics.coverage(of.question, of.probability, of.label)


def pair_accuracy(question: Ints, margin: Floats, *, seed: int = 0, draws: int | None = None) -> Interval:
    """Return how often the better answer of a pair has the higher score: a `margin` above 0; 0 counts one half."""
    index = np.unique(question, return_inverse=True)[1]
    with single_threaded_blas():
        weights = _Bootstrap(seed, draws).weights(np.arange(int(index.max(initial=-1)) + 1))
        return Interval(*metrics.interval(metrics.mean(index, (np.sign(margin) + 1) / 2, weights)))


def _evaluate(predictions: Predictions, bootstrap: _Bootstrap) -> Evaluation:
    question, label = predictions.question, predictions.label
    weights = bootstrap.weights(predictions.drawn)
    classed = {
        name: Interval(*metrics.interval(measure(question, label, predictions.probability, weights)))
        for name, measure in _MEASURES.items()
    }
    ranked = _with_rivals(question)
    known = np.isfinite(predictions.rank)
    known[known] = _with_rivals(question[known])
    orders = _orders(_in_order(predictions, ranked), bootstrap)
    gain = None
    if known.any():
        paired = _in_order(predictions, known)
        orders["incoming"], gain = _against_incoming(paired, bootstrap)
    return Evaluation(
        answers=len(question),
        questions=len(np.unique(question)),
        ranked_questions=len(np.unique(question[ranked])),
        incoming_questions=len(np.unique(question[known])),
        orders=orders,
        gain=gain,
        **classed,
    )


def _orders(of: Predictions, bootstrap: _Bootstrap) -> dict[str, Order]:
    weights = bootstrap.weights(of.drawn)
    random = (Interval(value, value, value) for value in metrics.random_order(of.question, of.rating, of.label))
    return {
        "model": _order(of, of.probability, weights),
        "random": Order(*random),
        "oracle": _order(of, of.rating.astype(np.float64), weights),
    }


def _order(of: Predictions, key: Floats, weights: metrics.Weights) -> Order:
    place = metrics.places(of.question, key)
    measures = (metrics.precision_at_1, metrics.ndcg, metrics.mrr)
    values = (measure(of.question, of.rating, of.label, place, weights) for measure in measures)
    return Order(*(Interval(*metrics.interval(value)) for value in values))


def _against_incoming(of: Predictions, bootstrap: _Bootstrap) -> tuple[Order, Interval]:
    weights = bootstrap.weights(of.drawn)
    ours, theirs = (
        metrics.precision_at_1(of.question, of.rating, of.label, metrics.places(of.question, key), weights)
        for key in (of.probability, -of.rank)
    )
    return _order(of, -of.rank, weights), Interval(*metrics.interval(ours - theirs))


def _with_rivals(question: Ints) -> Mask:
    """Return which answers belong to a question with two or more rated answers: only there is an order to judge."""
    several: Mask = np.bincount(question, minlength=1)[question] > 1
    return several


def _in_order(of: Predictions, rows: Mask) -> Predictions:
    """Keep some rows, in the incoming order where it is known, so that ties fall as they would when serving."""
    chosen = np.flatnonzero(rows)
    return of.only(chosen[np.argsort(of.rank[chosen], kind="stable")])


class _Bootstrap:
    """Draws of groups of questions; the same ones for equally many groups, so that each is drawn once."""

    def __init__(self, seed: int, draws: int | None) -> None:
        self._seed = seed
        self._draws = draws
        self._known: dict[int, metrics.Weights] = {}

    def weights(self, drawn: Ints) -> metrics.Weights:
        """Return how often each question is in each draw, the sample itself first, given their groups."""
        groups = int(drawn.max(initial=-1)) + 1
        if groups not in self._known:
            usual = 200 if groups > metrics.MANY_QUESTIONS else 1000
            draws = usual if self._draws is None else self._draws
            self._known[groups] = metrics.bootstrap_weights(groups, draws=draws, seed=self._seed)
        return metrics.of_questions(self._known[groups], drawn)
