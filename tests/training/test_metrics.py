from __future__ import annotations

from itertools import permutations
from math import log2

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import brier_score_loss, ndcg_score, precision_score, recall_score, roc_auc_score

from rlhf_loop.training import metrics

QUESTIONS = 12
MEASURES = (metrics.accuracy, metrics.precision, metrics.recall, metrics.brier, metrics.calibration_error, metrics.auc)
ORDER_MEASURES = (metrics.precision_at_1, metrics.ndcg, metrics.mrr)


def test_mean_of_values() -> None:
    """A mean goes over answers, each as often as its question is drawn."""
    weights = np.array([[1, 1], [0, 2], [0, 0]], dtype=np.uint8)
    found = metrics.mean(np.array([0, 0, 1]), np.array([1.0, 0.0, 0.5]), weights)
    assert found.tolist() == pytest.approx([0.5, 0.5, np.nan], nan_ok=True)


class Answers:
    """Rated answers with rounded probabilities, so that there are ties."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.question = np.r_[np.arange(QUESTIONS), rng.integers(QUESTIONS, size=60)]
        self.rating = rng.integers(1, 6, size=len(self.question))
        self.label = (self.rating >= 4).astype(np.intp)
        self.probability = np.clip(np.round(0.3 * self.label + 0.8 * rng.random(len(self.question)), 1), 0, 1)
        self.weights = metrics.bootstrap_weights(QUESTIONS, draws=20, seed=seed)


@pytest.fixture(params=range(3))
def answers(request: pytest.FixtureRequest) -> Answers:
    return Answers(request.param)


def ints(*values: int) -> metrics.Ints:
    return np.array(values, dtype=np.intp)


def floats(*values: float) -> metrics.Floats:
    return np.array(values, dtype=np.float64)


def test_bootstrap_begins_with_the_sample() -> None:
    """Row 0 is the sample itself; every draw has as many questions, and the seed decides which."""
    weights = metrics.bootstrap_weights(7, draws=50, seed=3)
    assert weights.shape == (51, 7)
    assert (weights[0] == 1).all()
    assert (weights.sum(axis=1) == 7).all()
    assert (weights == metrics.bootstrap_weights(7, draws=50, seed=3)).all()
    assert (weights != metrics.bootstrap_weights(7, draws=50, seed=4)).any()
    assert metrics.bootstrap_weights(0, draws=2).shape == (3, 0)


def test_many_questions_are_drawn_alike() -> None:
    """Beyond the number from which on draws are made otherwise they still have as many questions, each as likely."""
    questions = metrics.MANY_QUESTIONS + 1
    weights = metrics.bootstrap_weights(questions, draws=20, seed=1)
    assert (weights[0] == 1).all()
    assert (weights.sum(axis=1, dtype=int) == questions).all()
    assert weights[1:].var() == pytest.approx(1, abs=0.05)
    assert np.abs(weights[1:].mean(axis=0) - 1).max() < 6 / np.sqrt(20)
    assert (weights == metrics.bootstrap_weights(questions, draws=20, seed=1)).all()


def test_auc_is_that_of_scikit_learn(answers: Answers) -> None:
    """AUC equals roc_auc_score with ties, on the sample and with the weights of each draw."""
    values = metrics.auc(answers.question, answers.label, answers.probability, answers.weights)
    expected = [
        roc_auc_score(answers.label, answers.probability, sample_weight=weights[answers.question])
        for weights in answers.weights
    ]
    assert values == pytest.approx(expected, abs=1e-12)


def test_auc_of_few_answers_is_that_of_many(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    """All draws at once give the same numbers as one by one, to the last bit."""
    given = (answers.question, answers.label, answers.probability, answers.weights)
    at_once = metrics.auc(*given)
    monkeypatch.setattr(metrics, "_FEW", 0)
    assert np.array_equal(metrics.auc(*given), at_once, equal_nan=True)


def test_concordance_counts_pairs() -> None:
    """Of the pairs of a question with different ratings, those in the right order; a mean over questions as drawn."""
    question, rating = np.array([0, 0, 0, 1, 1, 2, 2]), np.array([5, 3, 1, 1, 5, 4, 4])
    place = np.array([0, 2, 1, 0, 1, 0, 1])
    weights = np.array([[1, 1, 1], [2, 0, 1], [0, 0, 3]], dtype=np.uint8)
    found = metrics.concordance(question, rating, (rating >= 4).astype(np.intp), place, weights)
    assert found.tolist() == pytest.approx([1 / 3, 2 / 3, np.nan], nan_ok=True)


def test_class_measures_are_those_of_scikit_learn(answers: Answers) -> None:
    """Brier score, precision, recall and accuracy equal scikit-learn's, with the weights of each draw."""
    predicted = answers.probability >= 0.5
    for draw, weights in enumerate(answers.weights):
        weight = weights[answers.question]
        expected = {
            metrics.brier: brier_score_loss(answers.label, answers.probability, sample_weight=weight),
            metrics.precision: precision_score(answers.label, predicted, sample_weight=weight),
            metrics.recall: recall_score(answers.label, predicted, sample_weight=weight),
            metrics.accuracy: np.average(predicted == answers.label, weights=weight),
        }
        for measure, value in expected.items():
            found = measure(answers.question, answers.label, answers.probability, answers.weights)
            assert found[draw] == pytest.approx(value, abs=1e-12), measure.__name__


def test_ndcg_is_that_of_scikit_learn(answers: Answers) -> None:
    """NDCG equals the mean of ndcg_score over questions, given the same gains and no ties."""
    key = answers.probability + np.linspace(0, 1e-6, len(answers.question))
    place = metrics.places(answers.question, key)
    (found,) = metrics.ndcg(answers.question, answers.rating, answers.label, place, np.ones((1, QUESTIONS)))
    gains = 2.0 ** (answers.rating - 1) - 1
    expected = []
    for question in range(QUESTIONS):
        rows = answers.question == question
        if rows.sum() > 1 and gains[rows].any():
            expected.append(ndcg_score([gains[rows]], [key[rows]]))
        elif gains[rows].any():
            expected.append(1.0)  # scikit-learn refuses lists of one
    assert found == pytest.approx(np.mean(expected), abs=1e-12)


def test_each_draw_is_the_measure_of_a_repeated_sample(answers: Answers) -> None:
    """A draw that has a question twice gives the value of data in which that question stands twice."""
    weights = answers.weights[1:4]
    place = metrics.places(answers.question, answers.probability)
    for measure in ORDER_MEASURES:
        found = measure(answers.question, answers.rating, answers.label, place, weights)
        for draw, counts in enumerate(weights.astype(int)):
            copies = [np.flatnonzero(answers.question == q) for q in np.repeat(np.arange(QUESTIONS), counts)]
            rows = np.concatenate(copies)
            question = np.repeat(np.arange(len(copies)), [len(copy) for copy in copies])
            ones = np.ones((1, len(copies)))
            (expected,) = measure(question, answers.rating[rows], answers.label[rows], place[rows], ones)
            assert found[draw] == pytest.approx(expected, abs=1e-12)


def test_places_keep_the_order_of_ties() -> None:
    """Places count from 0 in each question, high keys first; equal keys keep the order of the rows."""
    question = ints(1, 0, 1, 0, 1, 0)
    key = floats(0.5, 0.2, 0.9, 0.2, 0.5, 0.7)
    assert metrics.places(question, key).tolist() == [1, 1, 0, 2, 2, 0]
    assert metrics.places(ints(), floats()).tolist() == []


def test_order_measures_by_hand() -> None:
    """P@1, MRR and NDCG of two small lists are what a pencil gives."""
    question, rating = ints(0, 0, 0, 1, 1), ints(1, 4, 5, 2, 1)
    label, place = (rating >= 4).astype(np.intp), ints(0, 1, 2, 0, 1)
    sample = np.ones((1, 2))
    assert metrics.precision_at_1(question, rating, label, place, sample)[0] == 0
    assert metrics.mrr(question, rating, label, place, sample)[0] == pytest.approx((1 / 2 + 0) / 2)
    first = (7 / log2(3) + 15 / log2(4)) / (15 + 7 / log2(3))
    assert metrics.ndcg(question, rating, label, place, sample)[0] == pytest.approx((first + 1) / 2)


def test_calibration_error_by_hand() -> None:
    """Answers are binned by probability, and the gaps weighted by the size of their bins; 1.0 is in the last bin."""
    probability = floats(0.10, 0.15, 0.80, 0.85, 1.0)
    label = ints(0, 1, 1, 1, 0)
    sample = np.ones((1, 5))
    found = metrics.calibration_error(np.arange(5), label, probability, sample)[0]
    assert found == pytest.approx((abs(0.25 - 1) + abs(1.65 - 2) + abs(1.0 - 0)) / 5)


@pytest.mark.parametrize("ratings", [(5, 1), (1, 2, 3), (5, 4, 1, 1), (4, 5, 5, 2), (3,), (1, 1, 1), (5, 5, 5)])
def test_random_order_is_the_mean_of_all_orders(ratings: tuple[int, ...]) -> None:
    """What a random order gives equals the mean over all permutations of the list."""
    rating, question = np.array(ratings, dtype=np.intp), np.zeros(len(ratings), dtype=np.intp)
    label, sample = (rating >= 4).astype(np.intp), np.ones((1, 1))
    orders = [np.array(order, dtype=np.intp) for order in permutations(range(len(ratings)))]
    expected = [
        np.mean([measure(question, rating, label, order, sample)[0] for order in orders]) for measure in ORDER_MEASURES
    ]
    assert metrics.random_order(question, rating, label) == pytest.approx(tuple(expected), nan_ok=True)


def test_random_order_weighs_questions_alike() -> None:
    """Over several questions it is the mean of their means, whatever their length."""
    question, label = ints(0, 0, 0, 0, 1), ints(1, 0, 0, 0, 1)
    assert metrics.random_order(question, 4 * label + 1, label)[0] == pytest.approx((1 / 4 + 1) / 2)


def test_the_undefined_is_nan() -> None:
    """Without answers, or with one class where two are needed, a measure is nan and nothing warns."""
    nothing = np.ones((3, 0))
    for measure in MEASURES:
        assert np.isnan(measure(ints(), ints(), floats(), nothing)).all(), measure.__name__
    for order_measure in ORDER_MEASURES:
        assert np.isnan(order_measure(ints(), ints(), ints(), ints(), nothing)).all(), order_measure.__name__
    assert np.isnan(metrics.random_order(ints(), ints(), ints())).all()

    sample, low = np.ones((1, 2)), floats(0.1, 0.2)
    assert np.isnan(metrics.auc(ints(0, 1), ints(1, 1), low, sample)).all()
    assert np.isnan(metrics.precision(ints(0, 1), ints(1, 1), low, sample)).all()
    assert np.isnan(metrics.recall(ints(0, 1), ints(0, 0), low, sample)).all()
    assert np.isnan(metrics.ndcg(ints(0, 1), ints(1, 1), ints(0, 0), ints(0, 0), sample)).all()


def test_an_undefined_draw_leaves_the_others() -> None:
    """A draw without correct answers is nan; the interval is that of the other draws."""
    weights = np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    values = metrics.auc(ints(0, 0, 1), ints(1, 0, 0), floats(0.9, 0.1, 0.95), weights)
    assert values == pytest.approx([0.5, 1.0, np.nan, 0.5], nan_ok=True)
    assert metrics.interval(values) == pytest.approx((0.5, *np.quantile([1.0, 0.5], [0.025, 0.975])))


def test_coverage() -> None:
    """A threshold leaves the questions whose first answer has so high a score; a rated answer behind it is no help."""
    question, probability = np.array([0, 0, 1, 1, 2]), np.array([0.85, 0.2, 0.55, 0.5, 0.1])
    found = metrics.coverage(question, probability, np.array([1, 0, 0, 1, 1]))
    assert [(each.threshold, each.answered, each.good) for each in found] == [
        (0.0, 3, 2),
        (0.3, 2, 1),
        (0.4, 2, 1),
        (0.5, 2, 1),
        (0.6, 1, 1),
        (0.7, 1, 1),
        (0.8, 1, 1),
    ]
    assert {each.questions for each in found} == {3}


def test_interval() -> None:
    """The value is row 0, the bounds hold 95 % of the draws; nan where there is no draw."""
    values = np.r_[5.0, np.arange(1001) / 1000]
    assert metrics.interval(values) == pytest.approx((5.0, 0.025, 0.975))
    assert metrics.interval(floats(5.0)) == pytest.approx((5.0, np.nan, np.nan), nan_ok=True)


@pytest.mark.parametrize(("part", "whole"), [(0, 1), (1, 1), (3, 7), (999, 1000), (0, 20)])
def test_the_interval_of_a_share_is_wilsons(part: int, whole: int) -> None:
    """As SciPy computes it."""
    expected = binomtest(part, whole).proportion_ci(method="wilson")
    found = metrics.share(part, whole)
    assert (found.low, found.value, found.high) == pytest.approx((expected.low, part / whole, expected.high), abs=1e-12)
