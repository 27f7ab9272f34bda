"""Measures of a reward model, as pure functions on arrays, and calibration by bins of the scores.

Answers to one question share their prompt, so questions, not answers, are drawn anew by the bootstrap (Efron 1979).
Each measure therefore takes `weights`, shape (draws, questions): how often each question is in each draw. It returns
one value a draw, nan where the draw leaves it undefined. Row 0 of `bootstrap_weights` is the sample itself, so the
measured value and its interval come out of the same call.

Arrays with one entry an answer: `question` (0, 1, ... in any order), `label` (0 or 1), `probability`, `rating` (1-5),
`key` (what to rank by, high first).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.domain import Interval
from rlhf_loop.utils.arrays import Floats, Ints, Mask

Weights = NDArray[np.uint8] | Floats
#: Beyond this many questions intervals are narrow anyway, and are allowed fewer draws.
MANY_QUESTIONS = 5_000
#: Numbers that are held in float64 at a time while weighting.
_BLOCK = 2**18
#: Answers times questions up to which AUC is computed for all draws at once.
_FEW = 2**18
#: Scores of which one may be the least that is certain enough, and 0: all are.
THRESHOLDS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
#: Equal-width bins of the expected calibration error (Guo et al. 2017).
BINS = 10


def bootstrap_weights(questions: int, *, draws: int = 1000, seed: int = 0) -> Weights:
    """Return how often each question is in each draw, shape (draws + 1, questions); row 0 is the sample itself."""
    rng = np.random.default_rng(seed)
    # A byte each: of hundreds of thousands of questions there are many millions, and none is drawn 256 times.
    weights = np.ones((draws + 1, questions), dtype=np.uint8)
    share = np.full(questions, 1 / max(1, questions))
    for draw in range(1, draws + 1):
        if questions > MANY_QUESTIONS:
            # The same distribution at a tenth of the cost.
            weights[draw] = np.bincount(rng.integers(questions, size=questions), minlength=questions)
        elif questions:
            weights[draw] = rng.multinomial(questions, share)
    return weights


def of_questions(weights: Weights, group: Ints) -> Weights:
    """Return the weights of questions, given those of their groups, which are drawn as a whole."""
    alone = len(group) == weights.shape[1] and bool((group == np.arange(len(group))).all())
    return weights if alone else weights[:, group]


def interval(values: Floats) -> tuple[float, float, float]:
    """Return the value of row 0 and the 95 % percentile interval of the draws; nan where nothing is defined."""
    drawn = values[1:][np.isfinite(values[1:])]
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (np.nan, np.nan)
    return float(values[0]), float(low), float(high)


def accuracy(question: Ints, label: Ints, probability: Floats, weights: Weights) -> Floats:
    """Return the share of answers on the right side of one half."""
    return _ratio(weights, question, (probability >= 0.5) == label, np.ones(len(label)))


def mean(question: Ints, value: Floats, weights: Weights) -> Floats:
    """Return the mean of the values."""
    return _ratio(weights, question, value, np.ones(len(value)))


def precision(question: Ints, label: Ints, probability: Floats, weights: Weights) -> Floats:
    """Return the share of correct answers among those predicted to be correct."""
    predicted = probability >= 0.5
    return _ratio(weights, question, predicted * label, predicted)


def recall(question: Ints, label: Ints, probability: Floats, weights: Weights) -> Floats:
    """Return the share of the correct answers that were predicted to be correct."""
    return _ratio(weights, question, (probability >= 0.5) * label, label)


def brier(question: Ints, label: Ints, probability: Floats, weights: Weights) -> Floats:
    """Return the mean squared difference of probability and label (Brier 1950); 0 is perfect."""
    return _ratio(weights, question, (probability - label) ** 2, np.ones(len(label)))


def calibration_error(question: Ints, label: Ints, probability: Floats, weights: Weights) -> Floats:
    """Return the expected calibration error: mean distance of predicted and observed share over ten bins."""
    bins = np.minimum((probability * BINS).astype(np.intp), BINS - 1)
    questions = weights.shape[1]
    gaps = [_by_question(question, (probability - label) * (bins == index), questions) for index in range(BINS)]
    sums = _weighted(weights, *gaps, _by_question(question, np.ones(len(label)), questions))
    return _divide(np.abs(sums[:, :-1]).sum(axis=1), sums[:, -1])


def auc(question: Ints, label: Ints, probability: Floats, weights: Weights) -> Floats:
    """Return the area under the ROC curve: how often a correct answer scores above an incorrect one, ties one half."""
    order = np.argsort(probability, kind="stable")
    question, label, probability = question[order], label[order], probability[order]
    of_positive, of_negative = question[label == 1], question[label == 0]
    # Between these places of the sorted negatives lie those that tie with a positive.
    low, high = (
        np.searchsorted(probability[label == 0], probability[label == 1], side=side) for side in ("left", "right")
    )
    if len(label) * weights.shape[1] <= _FEW:
        return _auc_of_few(of_positive, of_negative, low, high, weights)
    values = np.full(len(weights), np.nan)
    for draw, of_question in enumerate(weights):
        positive, negative = of_question[of_positive], of_question[of_negative]
        below = np.zeros(len(negative) + 1)
        np.cumsum(negative, dtype=np.float64, out=below[1:])
        pairs = positive.sum(dtype=np.float64) * below[-1]
        if pairs > 0:
            values[draw] = positive @ (below[low] + below[high]) / 2 / pairs
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


def precision_at_1(question: Ints, rating: Ints, label: Ints, place: Ints, weights: Weights) -> Floats:
    """Return the share of questions with a correct answer at the top; one without a correct one counts as missed."""
    questions = weights.shape[1]
    return _mean(weights, _by_question(question, label * (place == 0), questions), _present(question, questions))


def mrr(question: Ints, rating: Ints, label: Ints, place: Ints, weights: Weights) -> Floats:
    """Return the mean reciprocal rank of the first correct answer; 0 for a question without any."""
    reciprocal = np.zeros(weights.shape[1])
    np.maximum.at(reciprocal, question, label / (place + 1))
    return _mean(weights, reciprocal, _present(question, weights.shape[1]))


def ndcg(question: Ints, rating: Ints, label: Ints, place: Ints, weights: Weights) -> Floats:
    """Return the normalised discounted cumulative gain over the whole list (Järvelin and Kekäläinen 2002).

    The gain of an answer is 2 ** (rating - 1) - 1. Questions whose answers are all rated 1 have no ideal order and
    are left out.
    """
    questions = weights.shape[1]
    gain = gains(rating)
    found = _by_question(question, gain / np.log2(place + 2), questions)
    ideal = _by_question(question, gain / np.log2(places(question, gain) + 2), questions)
    return _mean(weights, _divide(found, ideal), ideal > 0)


def concordance(question: Ints, rating: Ints, label: Ints, place: Ints, weights: Weights) -> Floats:
    """Return how often the better of two answers to a question stands before the other: a mean over questions.

    Questions whose answers all have one rating are left out: there no order is better than another.
    """
    order = np.lexsort((place, question))
    of, ranked = question[order], rating[order]
    right, pairs = (np.zeros(weights.shape[1]) for _ in range(2))
    before = np.arange(len(of))
    for distance in range(1, len(of)):
        before = before[before + distance < len(of)]
        before = before[of[before] == of[before + distance]]
        if not len(before):
            break
        first, second = ranked[before], ranked[before + distance]
        right += _by_question(of[before], first > second, weights.shape[1])
        pairs += _by_question(of[before], first != second, weights.shape[1])
    return _mean(weights, _divide(right, pairs), pairs > 0)


def gains(rating: Ints) -> Floats:
    """Return what an answer is worth to NDCG: 0, 1, 3, 7 or 15."""
    worth: Floats = np.exp2(np.asarray(rating, dtype=np.float64) - 1) - 1
    return worth


def random_order(question: Ints, rating: Ints, label: Ints) -> tuple[float, float, float]:
    """Return P@1, NDCG and MRR that a random order has on average, exactly and not by drawing."""
    questions = int(question.max(initial=-1)) + 1
    present = _present(question, questions)
    count, correct = (_by_question(question, values, questions) for values in (np.ones(len(label)), label))
    # Few kinds of questions: what counts is how many answers they have, and how many of these are correct.
    kinds, kind = np.unique(np.stack([count, correct]).astype(np.intp), axis=1, return_inverse=True)
    reciprocal = np.array([_expected_reciprocal_rank(*of_kind) for of_kind in kinds.T.tolist()])
    gain = gains(rating)
    discount = 1 / np.log2(np.arange(int(count.max(initial=0))) + 2)
    ideal = _by_question(question, gain * discount[places(question, gain)], questions)
    mean = _divide(_by_question(question, gain, questions), count)
    found = _divide(mean * np.r_[0, np.cumsum(discount)][count.astype(np.intp)], ideal)
    return (
        _plain_mean(_divide(correct, count)[present]),
        _plain_mean(found[ideal > 0]),
        _plain_mean(reciprocal[kind.ravel()][present]) if questions else float("nan"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Answers with like scores: how many, the mean of their scores, and how many of them were rated 4 or 5."""

    answers: int
    predicted: float
    good: int

    @property
    def share(self) -> Interval:
        """The share of good ones."""
        return share(self.good, self.answers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Questions whose first answer has a score of `threshold` or more, and how many of these answers were rated 4 or 5.

    `questions` counts all that were asked.
    """

    threshold: float
    questions: int
    answered: int
    good: int

    @property
    def precision(self) -> Interval:
        """The share of good ones among the first answers that are left."""
        return share(self.good, self.answered)


def share(part: int, whole: int) -> Interval:
    """Return a share with its 95 % interval by Wilson (1927), which holds for few, too."""
    z = NormalDist().inv_cdf(0.975)
    middle = (part + z**2 / 2) / (whole + z**2)
    reach = z / (whole + z**2) * (part * (whole - part) / whole + z**2 / 4) ** 0.5
    # Rounding may leave nothing and all a little beside their ends.
    return Interval(part / whole, middle - reach if part else 0.0, middle + reach if part < whole else 1.0)


def coverage(question: Ints, probability: Floats, label: Ints) -> tuple[Coverage, ...]:
    """Return what each threshold leaves of the questions, as long as it leaves any."""
    first = places(question, probability) == 0
    found = []
    for threshold in THRESHOLDS:
        left = first & (probability >= threshold)
        if left.any():
            found.append(
                Coverage(
                    threshold=threshold,
                    questions=int(first.sum()),
                    answered=int(left.sum()),
                    good=int(label[left].sum()),
                )
            )
    return tuple(found)


def bins(probability: Floats, label: Ints) -> tuple[Bin, ...]:
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


def _auc_of_few(of_positive: Ints, of_negative: Ints, low: Ints, high: Ints, weights: Weights) -> Floats:
    """Return the AUC of all draws at once. All sums are whole numbers, so they are those of the draws one by one."""
    questions = weights.shape[1]
    below = np.zeros((len(of_negative) + 1, questions))
    below[np.arange(1, len(below)), of_negative] = 1
    np.cumsum(below, axis=0, out=below)
    # For each pair of questions twice the pairs of answers that are in order, halves being ties.
    twice = np.zeros((questions, questions))
    np.add.at(twice, of_positive, below[low] + below[high])
    drawn = weights.astype(np.float64)
    positive, negative = (drawn @ np.bincount(of, minlength=questions) for of in (of_positive, of_negative))
    return _divide(np.einsum("dq,dq->d", drawn @ twice, drawn) / 2, positive * negative)


def _expected_reciprocal_rank(count: int, correct: int) -> float:
    # The first correct answer is at place k if the other correct ones are all among the places behind it.
    if correct == 0:
        return 0.0
    ways = comb(count, correct)
    return sum(comb(count - place, correct - 1) / ways / place for place in range(1, count - correct + 2))


def _plain_mean(values: Floats) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _by_question(question: Ints, values: NDArray[np.generic], questions: int) -> Floats:
    sums = np.bincount(question, weights=np.asarray(values, dtype=np.float64), minlength=questions)
    return sums.astype(np.float64)


def _present(question: Ints, questions: int) -> Mask:
    """Return which questions have answers."""
    return np.bincount(question, minlength=questions) > 0


def _ratio(weights: Weights, question: Ints, upper: NDArray[np.generic], lower: NDArray[np.generic]) -> Floats:
    sums = _weighted(weights, *(_by_question(question, values, weights.shape[1]) for values in (upper, lower)))
    return _divide(sums[:, 0], sums[:, 1])


def _mean(weights: Weights, of_question: Floats, chosen: Mask) -> Floats:
    """Return the mean over the chosen questions."""
    sums = _weighted(weights, np.where(chosen, of_question, 0.0), chosen.astype(np.float64))
    return _divide(sums[:, 0], sums[:, 1])


def _weighted(weights: Weights, *of_question: Floats) -> Floats:
    """Return the weighted sums, shape (draws, how many were given), with only some of the weights in float64."""
    values = np.stack(of_question, axis=1)
    step = max(1, _BLOCK // max(1, len(values)))
    blocks = (weights[start : start + step] for start in range(0, len(weights), step))
    return np.concatenate([block.astype(np.float64) @ values for block in blocks])


def _divide(upper: Floats, lower: Floats) -> Floats:
    quotient: Floats = np.divide(upper, lower, out=np.full(len(upper), np.nan), where=lower > 0)
    return quotient
