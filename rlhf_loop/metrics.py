"""Measures of a reward model, as pure functions on arrays.

Answers to one question share their prompt, so questions, not answers, are drawn anew by the bootstrap (Efron 1979).
Each measure therefore takes `weights`, shape (draws, questions): how often each question is in each draw. It returns
one value a draw, nan where the draw leaves it undefined. Row 0 of `bootstrap_weights` is the sample itself, so the
measured value and its interval come out of the same call.

Arrays with one entry an answer: `question` (0, 1, ... in any order), `label` (0 or 1), `probability`, `rating` (1-5),
`key` (what to rank by, high first).
"""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

#: Equal-width bins of the expected calibration error (Guo et al. 2017).
CALIBRATION_BINS = 10


def bootstrap_weights(questions: int, *, draws: int = 1000, seed: int = 0) -> Floats:
    """Return how often each question is in each draw, shape (draws + 1, questions); row 0 is the sample itself."""
    rng = np.random.default_rng(seed)
    weights = np.ones((draws + 1, questions))
    if questions:
        weights[1:] = rng.multinomial(questions, np.full(questions, 1 / questions), size=draws)
    return weights


def interval(values: Floats) -> tuple[float, float, float]:
    """Return the value of row 0 and the 95 % percentile interval of the draws; nan where nothing is defined."""
    drawn = values[1:][np.isfinite(values[1:])]
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (np.nan, np.nan)
    return float(values[0]), float(low), float(high)


def accuracy(question: Ints, label: Ints, probability: Floats, weights: Floats) -> Floats:
    """Share of answers on the right side of one half."""
    return _ratio(weights, question, (probability >= 0.5) == label, np.ones(len(label)))


def precision(question: Ints, label: Ints, probability: Floats, weights: Floats) -> Floats:
    """Share of correct answers among those predicted to be correct."""
    predicted = probability >= 0.5
    return _ratio(weights, question, predicted * label, predicted)


def recall(question: Ints, label: Ints, probability: Floats, weights: Floats) -> Floats:
    """Share of the correct answers that were predicted to be correct."""
    return _ratio(weights, question, (probability >= 0.5) * label, label)


def brier(question: Ints, label: Ints, probability: Floats, weights: Floats) -> Floats:
    """Mean squared difference of probability and label (Brier 1950); 0 is perfect."""
    return _ratio(weights, question, (probability - label) ** 2, np.ones(len(label)))


def calibration_error(question: Ints, label: Ints, probability: Floats, weights: Floats) -> Floats:
    """Expected calibration error: mean distance of predicted and observed share over ten bins; 0 is perfect."""
    bins = np.minimum((probability * CALIBRATION_BINS).astype(np.intp), CALIBRATION_BINS - 1)
    gap = np.zeros(len(weights))
    for index in range(CALIBRATION_BINS):
        gap += np.abs(weights @ _by_question(question, (probability - label) * (bins == index), weights.shape[1]))
    return _divide(gap, weights @ _by_question(question, np.ones(len(label)), weights.shape[1]))


def auc(question: Ints, label: Ints, probability: Floats, weights: Floats) -> Floats:
    """Area under the ROC curve: how often a correct answer scores above an incorrect one, ties counting one half."""
    order = np.argsort(probability, kind="stable")
    question, label, probability = question[order], label[order], probability[order]
    ties = np.flatnonzero(np.r_[True, probability[1:] != probability[:-1]]) if len(order) else np.empty(0, np.intp)
    values = np.full(len(weights), np.nan)
    for draw, of_question in enumerate(weights):
        weight = of_question[question]
        positive = np.add.reduceat(weight * label, ties) if len(ties) else np.empty(0)
        negative = np.add.reduceat(weight * (1 - label), ties) if len(ties) else np.empty(0)
        pairs = positive.sum() * negative.sum()
        if pairs > 0:
            below = np.cumsum(negative) - negative
            values[draw] = (positive * (below + negative / 2)).sum() / pairs
    return values


def places(question: Ints, key: Floats) -> Ints:
    """Return each answer's place in its question from 0 when ranked by `key`; ties keep the order of the rows."""
    order = np.lexsort((-key, question))
    ranked = question[order]
    first = np.r_[True, ranked[1:] != ranked[:-1]]
    start = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    result = np.empty(len(order), dtype=np.intp)
    result[order] = np.arange(len(order)) - start
    return result


def precision_at_1(question: Ints, rating: Ints, label: Ints, place: Ints, weights: Floats) -> Floats:
    """Share of questions with a correct answer at the top; a question without any correct answer counts as missed."""
    return _mean(weights, question, _by_question(question, label * (place == 0), weights.shape[1]))


def mrr(question: Ints, rating: Ints, label: Ints, place: Ints, weights: Floats) -> Floats:
    """Mean reciprocal rank of the first correct answer; 0 for a question without any."""
    reciprocal = np.zeros(weights.shape[1])
    np.maximum.at(reciprocal, question, label / (place + 1))
    return _mean(weights, question, reciprocal)


def ndcg(question: Ints, rating: Ints, label: Ints, place: Ints, weights: Floats) -> Floats:
    """Normalised discounted cumulative gain over the whole list (Järvelin and Kekäläinen 2002).

    The gain of an answer is 2 ** (rating - 1) - 1. Questions whose answers are all rated 1 have no ideal order and
    are left out.
    """
    questions = weights.shape[1]
    gain = gains(rating)
    found = _by_question(question, gain / np.log2(place + 2), questions)
    ideal = _by_question(question, gain / np.log2(places(question, gain) + 2), questions)
    return _mean(weights[:, ideal > 0], np.arange((ideal > 0).sum()), found[ideal > 0] / ideal[ideal > 0])


def gains(rating: Ints) -> Floats:
    """Return what an answer is worth to NDCG: 0, 1, 3, 7 or 15."""
    worth: Floats = np.exp2(np.asarray(rating, dtype=np.float64) - 1) - 1
    return worth


def random_order(question: Ints, rating: Ints, label: Ints) -> tuple[float, float, float]:
    """Return P@1, NDCG and MRR that a random order has on average, exactly and not by drawing."""
    first, gain, reciprocal = [], [], []
    for rows in _rows_by_question(question):
        count, correct = len(rows), int(label[rows].sum())
        first.append(correct / count)
        reciprocal.append(_expected_reciprocal_rank(count, correct))
        discounts = 1 / np.log2(np.arange(count) + 2)
        ideal = (np.sort(gains(rating[rows]))[::-1] * discounts).sum()
        if ideal > 0:
            gain.append(gains(rating[rows]).mean() * discounts.sum() / ideal)
    return _plain_mean(first), _plain_mean(gain), _plain_mean(reciprocal)


def _expected_reciprocal_rank(count: int, correct: int) -> float:
    # The first correct answer is at place k if the other correct ones are all among the places behind it.
    if correct == 0:
        return 0.0
    ways = comb(count, correct)
    return sum(comb(count - place, correct - 1) / ways / place for place in range(1, count - correct + 2))


def _rows_by_question(question: Ints) -> list[Ints]:
    order = np.argsort(question, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(question[order])) + 1) if len(order) else []


def _plain_mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _by_question(question: Ints, values: NDArray[np.generic], questions: int) -> Floats:
    sums = np.bincount(question, weights=np.asarray(values, dtype=np.float64), minlength=questions)
    return sums.astype(np.float64)


def _ratio(weights: Floats, question: Ints, upper: NDArray[np.generic], lower: NDArray[np.generic]) -> Floats:
    questions = weights.shape[1]
    return _divide(
        weights @ _by_question(question, upper, questions), weights @ _by_question(question, lower, questions)
    )


def _mean(weights: Floats, question: Ints, of_question: Floats) -> Floats:
    """Mean over the questions that have answers."""
    present = _by_question(question, np.ones(len(question)), weights.shape[1]) > 0
    return _divide(weights @ (of_question * present), weights @ present.astype(np.float64))


def _divide(upper: Floats, lower: Floats) -> Floats:
    quotient: Floats = np.divide(upper, lower, out=np.full(len(upper), np.nan), where=lower > 0)
    return quotient
