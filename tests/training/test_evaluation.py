from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from rlhf_loop.domain import Interval
from rlhf_loop.training.evaluation import Predictions, evaluate, pair_accuracy


def predictions(questions: int = 30, *, better: bool = True, known: bool = True) -> Predictions:
    """Lists of a good and two bad answers, the good one on place 2 of 3; the model knows it, or has it last."""
    rating = np.tile([2, 5, 1], questions)
    probability = np.tile([0.4, 0.9, 0.1] if better else [0.9, 0.1, 0.4], questions)
    rank = np.tile([1.0, 2.0, 3.0], questions) if known else np.full(3 * questions, np.nan)
    return Predictions(np.repeat(np.arange(questions), 3), rating, probability, rank)


def test_a_good_model_beats_the_incoming_order() -> None:
    """All orders are judged on the same questions, and the gain is the difference of P@1."""
    found = evaluate(predictions())
    assert (found.answers, found.questions, found.ranked_questions, found.incoming_questions) == (90, 30, 30, 30)
    values = {name: order.precision_at_1.value for name, order in found.orders.items()}
    assert values == pytest.approx({"model": 1, "incoming": 0, "random": 1 / 3, "oracle": 1})
    assert found.orders["oracle"].ndcg.value == 1
    assert found.gain == Interval(1.0, 1.0, 1.0)
    assert (found.accuracy.value, found.auc.value) == (1, 1)


def test_a_bad_model_is_worse_than_the_incoming_order() -> None:
    """A model that puts good answers last where they had come first is said to be worse."""
    good = predictions(better=False)
    first = np.tile([2.0, 1.0, 3.0], 30)
    found = evaluate(Predictions(good.question, good.rating, good.probability, first))
    assert found.gain == Interval(-1.0, -1.0, -1.0)


def test_the_order_of_pairs() -> None:
    """A pair is in the right order if the better answer has the higher score; equal scores count one half."""
    found = pair_accuracy(np.array([3, 3, 7, 9]), np.array([0.1, 5.0, 0.0, -0.2]))
    assert found.value == 0.625
    assert 0 <= found.low < 0.625 < found.high <= 1


def test_an_equal_model_is_not_worse() -> None:
    """A gain of exactly 0 is not worse than doing nothing."""
    found = evaluate(predictions(better=False))
    assert found.gain is not None
    assert found.gain.value == 0


def test_an_unknown_incoming_order_is_not_compared() -> None:
    """Without incoming ranks there is no incoming order and no gain."""
    found = evaluate(predictions(known=False))
    assert set(found.orders) == {"model", "random", "oracle"}
    assert (found.gain, found.incoming_questions) == (None, 0)


def test_the_gain_is_of_the_questions_whose_order_is_known() -> None:
    """Where the incoming order is known for one question, the gain is of that one, and the evaluation says so."""
    of = predictions(30)
    rank = np.full(90, np.nan)
    rank[:3] = [3.0, 2.0, 1.0]
    turned = of.probability.copy()
    turned[:3] = [0.9, 0.1, 0.4]
    rank[1] = 1.0
    rank[2] = 2.0
    found = evaluate(Predictions(of.question, of.rating, turned, rank))
    assert found.gain is not None
    assert (found.gain.value, found.incoming_questions, found.ranked_questions) == (-1, 1, 30)


def test_an_answer_without_a_rank_takes_no_part_in_the_comparison() -> None:
    """The model is compared with the incoming order on the other answers of its question, where they are several."""
    of = predictions()
    rank = of.rank.copy()
    rank[of.question == 0] = np.nan
    rank[np.flatnonzero(of.question == 1)[1:]] = np.nan
    rank[np.flatnonzero(of.question == 2)[0]] = np.nan
    found = evaluate(Predictions(of.question, of.rating, of.probability, rank))
    assert (found.ranked_questions, found.incoming_questions) == (30, 28)
    ranked = of.only(np.isfinite(rank) & (of.question > 1))
    assert found.orders["incoming"] == evaluate(ranked).orders["incoming"]


def test_single_answers_have_no_order() -> None:
    """Questions with one answer count for accuracy and AUC, but not for any order."""
    lonely = Predictions(np.arange(4), np.array([5, 1, 4, 2]), np.array([0.9, 0.2, 0.8, 0.6]), np.ones(4))
    found = evaluate(lonely)
    assert (found.ranked_questions, found.gain, found.auc.value, found.accuracy.value) == (0, None, 1, 0.75)
    assert np.isnan(found.orders["model"].precision_at_1.value)
    both = evaluate(
        Predictions(np.array([0, 0, 1]), np.array([5, 1, 1]), np.array([0.9, 0.1, 0.9]), np.array([1.0, 2.0, 1.0]))
    )
    assert (both.ranked_questions, both.orders["model"].precision_at_1.value) == (1, 1)


def test_ties_fall_as_they_would_when_serving() -> None:
    """Equal probabilities keep the incoming order, whatever the order of the rows."""
    tied = Predictions(np.zeros(3, np.intp), np.array([1, 2, 5]), np.full(3, 0.5), np.array([3.0, 2.0, 1.0]))
    assert evaluate(tied).orders["model"].precision_at_1.value == 1


def test_nothing_to_judge() -> None:
    """No predictions give nan everywhere and no warning."""
    empty = Predictions(np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0), np.empty(0))
    found = evaluate(empty)
    assert (found.answers, found.questions, found.ranked_questions) == (0, 0, 0)
    assert np.isnan([found.auc.value, found.auc.low, found.orders["model"].ndcg.value]).all()


def test_intervals_hold_the_value_and_narrow_with_more_questions() -> None:
    """An interval is around its value, the same for the same seed, and narrower for more questions."""
    rng = np.random.default_rng(0)

    def random(questions: int) -> Predictions:
        question = np.repeat(np.arange(questions), 4)
        rating = rng.integers(1, 6, size=len(question))
        probability = np.clip(rating / 6 + rng.normal(0, 0.3, size=len(question)), 0, 1)
        return Predictions(question, rating, probability, np.tile([1.0, 2.0, 3.0, 4.0], questions))

    few, many = random(30), random(500)
    for name in ("accuracy", "auc", "precision", "recall", "brier"):
        narrow, wide = getattr(evaluate(many), name), getattr(evaluate(few), name)
        assert narrow.low < narrow.value < narrow.high
        assert narrow.high - narrow.low < wide.high - wide.low
    assert evaluate(few, seed=1) == evaluate(few, seed=1)
    assert evaluate(few, seed=1).auc != evaluate(few, seed=2).auc


def test_without_draws_there_are_only_values() -> None:
    """No bootstrap leaves the measured values as they are and their intervals undefined."""
    plain, full = evaluate(predictions(), draws=0), evaluate(predictions())
    assert plain.brier.value == pytest.approx(full.brier.value)
    assert np.isnan(plain.brier.low)


def test_many_questions_take_little_memory() -> None:
    """The draws of many questions do not stand in memory as numbers of eight bytes."""
    many = predictions(20_000)
    tracemalloc.start()
    try:
        evaluate(many)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 201 * 20_000 * 8
