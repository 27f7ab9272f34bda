from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from rlhf_loop.domain import Example
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.reward import RewardModel
from rlhf_loop.training.comparison import Comparisons, against_incoming, by_chance, by_chance_within, compare, predict
from rlhf_loop.training.data import assemble
from rlhf_loop.training.evaluation import Predictions
from rlhf_loop.training.train import TrainingReport

NAN = float("nan")


def predictions(question: list[int], rating: list[int], probability: list[float], rank: list[float]) -> Predictions:
    return Predictions(np.array(question), np.array(rating), np.array(probability), np.array(rank))


def test_differences_by_question() -> None:
    """P@1, accuracy and AUC of both, with ours less theirs; a question with one answer says nothing of an order."""
    of = predictions([0, 0, 1, 1, 2], [5, 1, 1, 5, 5], [0.9, 0.1, 0.2, 0.8, 0.9], [1, 2, 1, 2, 1])
    found = compare(of, np.array([0.9, 0.1, 0.8, 0.2, 0.9]))
    assert found.precision_at_1 is not None
    assert (found.precision_at_1.questions, found.precision_at_1.answers) == (2, 4)
    assert (found.precision_at_1.ours, found.precision_at_1.theirs) == (1.0, 0.5)
    assert found.precision_at_1.difference.value == 0.5
    assert found.accuracy is not None
    assert (found.accuracy.answers, found.accuracy.difference.value) == (5, pytest.approx(0.4))
    assert found.auc is not None
    assert found.auc.ours == 1.0


def test_equal_models_differ_by_nothing() -> None:
    """A model against itself: the difference is 0 in every draw, and nobody is better."""
    of = predictions([0, 0, 1, 1], [5, 1, 1, 5], [0.9, 0.1, 0.2, 0.8], [NAN] * 4)
    found = compare(of, of.probability)
    for each in (found.precision_at_1, found.auc, found.accuracy):
        assert each is not None
        assert (each.difference.value, each.difference.low, each.difference.high, each.certainty) == (0, 0, 0, 0)


def test_what_is_not_defined_is_none() -> None:
    """No answers, or none of one class: no AUC, and no order without rivals."""
    nothing = compare(predictions([], [], [], []), np.array([]))
    assert (nothing.accuracy, nothing.auc, nothing.precision_at_1) == (None, None, None)
    alone = compare(predictions([0, 1], [5, 5], [0.1, 0.2], [1, 1]), np.array([0.3, 0.4]))
    assert (alone.auc, alone.precision_at_1) == (None, None)
    assert alone.accuracy is not None


def test_the_incoming_order_where_it_is_known() -> None:
    """Only questions whose ranks are all known count, and equal scores keep that order."""
    of = predictions([0, 0, 1, 1, 2, 2], [1, 5, 5, 1, 5, 1], [0.1, 0.9, 0.5, 0.5, 0.9, 0.1], [1, 2, 1, 2, NAN, 2])
    found = against_incoming(of).precision_at_1
    assert found is not None
    assert (found.questions, found.ours, found.theirs) == (2, 1.0, 0.5)
    assert 0 < found.certainty < 1
    assert against_incoming(predictions([0, 0], [1, 5], [0.1, 0.9], [NAN, 1])) == Comparisons()


def test_pairs_in_the_right_order() -> None:
    """Pairs see what P@1 does not; questions with answers of one grade say nothing of them."""
    of = predictions([0, 0, 0, 1, 1], [5, 4, 1, 5, 5], [0.9, 0.8, 0.1, 0.2, 0.1], [2, 3, 1, 1, 2])
    found = against_incoming(of)
    assert found.precision_at_1 is not None
    assert (found.precision_at_1.questions, found.precision_at_1.ours, found.precision_at_1.theirs) == (2, 1, 0.5)
    assert found.concordance is not None
    assert (found.concordance.questions, found.concordance.ours) == (1, 1)
    assert found.concordance.theirs == pytest.approx(1 / 3)
    assert found.ndcg is not None
    assert found.ndcg.difference.value > 0


def test_what_chance_would_do_as_well() -> None:
    """Who follows the ratings on many answers is hardly lucky; on four nobody can tell, nor where all is the same."""
    many = predictions(list(range(40)), [1, 5] * 20, [0.1, 0.9] * 20, [1] * 40)
    assert by_chance(many) < 1e-6
    assert by_chance(many.only(np.arange(4))) < 0.05 < by_chance(replace(many, probability=1 - many.probability))
    assert by_chance(replace(many, probability=np.full(40, 0.5))) == 1


def test_chance_within_each_question() -> None:
    """Four long lists in the right order are no luck, whatever their scores are worth from one list to the next."""
    question, rank = np.repeat(np.arange(4), 12), np.tile(np.arange(1.0, 13.0), 4)
    rating = np.where(rank == 5, 5, 1)
    probability = (rank == 5) * 0.1 + question * 0.25 + rank / 1000
    of = Predictions(question, rating, probability, rank)
    assert by_chance_within(of) < 0.001 < 0.01 < by_chance(of)
    assert by_chance_within(replace(of, probability=-probability)) > 0.99
    # Where questions have one answer each, or all is the same, nothing is known of an order.
    assert by_chance_within(replace(of, question=np.arange(48))) == 1
    assert by_chance_within(replace(of, probability=question / 4)) == 1


def test_chance_within_each_question_is_as_rare_as_it_says() -> None:
    """Of scores by lot about one in a hundred is as good as its number says."""
    rng = np.random.default_rng(0)
    question, rank = np.repeat(np.arange(10), 6), np.tile(np.arange(1.0, 7.0), 10)
    found = [
        by_chance_within(Predictions(question, rng.choice([1, 3, 5], 60), rng.random(60), rank)) for _ in range(400)
    ]
    assert 0 < np.mean(np.array(found) <= 0.05) < 0.13
    assert np.mean(np.array(found) <= 0.01) < 0.035


def test_a_model_sees_all_candidates(
    trained: tuple[RewardModel, TrainingReport], sample_examples: list[Example], encoder: TextEncoder
) -> None:
    """Asked of some answers, a model says the same as of all, since their questions stay whole; the rest is nan."""
    data = assemble(sample_examples)
    every = predict(trained[0], data, np.ones(len(data.row), dtype=np.bool_), encoder)
    assert np.isfinite(every).all()
    rows = np.arange(len(data.row)) % 3 == 0
    some = predict(trained[0], data, rows, encoder)
    assert some[rows] == pytest.approx(every[rows], abs=1e-12)
    assert np.isnan(some[~rows]).all()


@pytest.mark.parametrize("count", [3, 4, 5, 10, 51, 1000])
def test_the_probability_by_chance_is_that_of_scipy(count: int) -> None:
    """With ties, for odd and even numbers of answers, whether the order is right, wrong or neither."""
    rng = np.random.default_rng(count)
    for slant in (-1.0, 0.0, 0.3, 1.0):
        rating = rng.permutation(np.resize(np.arange(1, 6), count))
        score = slant * rating + rng.normal(size=count).round(1)
        of = Predictions(np.zeros(count, dtype=np.intp), rating, score, np.arange(count))
        varied = [each for each in (of.rating, of.label) if len(set(each.tolist())) > 1]
        expected = min(spearmanr(score, each, alternative="greater").pvalue for each in varied)
        assert by_chance(of) == pytest.approx(expected, abs=1e-9)
