from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from rlhf_loop.answering.experiments import draw, team_draft
from rlhf_loop.domain import Interval
from rlhf_loop.monitoring.experiment import MIN_RATED, FirstAnswers, compare, outcome, preference


def simulated(
    seed: int, *, effect: float, questions: int = 400, shares: tuple[float, ...] = (0.3,), repeats: int = 1
) -> FirstAnswers:
    """Ratings of questions that are asked in periods of different shares, each with a difficulty of its own.

    The later a period, the better all answers are; the live order's are better by `effect`, in rounded stars.
    """
    rng = np.random.default_rng(seed)
    answers = FirstAnswers()
    for number in range(questions):
        period = number * len(shares) // questions
        live = draw(f"{seed} {number}", "incoming") >= shares[period]
        difficulty = rng.integers(0, 2)
        for _ in range(repeats):
            noise = 1 if rng.random() < 0.4 else 0
            better = 1 if live and rng.random() < effect else 0
            answers.live.append(live)
            answers.propensity.append(1 - shares[period] if live else shares[period])
            answers.rating.append(int(min(5, 1 + difficulty + noise + better + (period > 0))))
            answers.question.append(number)
    return answers


def covered(truth: float, draws: int, make: Callable[[int], Interval | None]) -> int:
    found = [make(seed) for seed in range(draws)]
    return sum(of is not None and of.low <= truth <= of.high for of in found)


def add(answers: FirstAnswers, live: bool, propensity: float, *ratings: int) -> None:
    for rating in ratings:
        answers.question.append(len(answers.question))
        answers.live.append(live)
        answers.propensity.append(propensity)
        answers.rating.append(rating)


def test_the_measured_value_is_the_weighted_mean() -> None:
    """Each rating counts with one over its probability, as a table worked out by hand says."""
    answers = FirstAnswers()
    add(answers, True, 0.5, *[5] * 10)
    add(answers, True, 0.9, *[2] * 18)
    add(answers, False, 0.5, *[4] * 10)
    add(answers, False, 0.1, *[1] * 2)
    found = compare(answers)
    # Both periods had 20 questions.
    assert found.live_rating is not None
    assert found.other_rating is not None
    assert found.live_rating.value == pytest.approx((20 * 5 + 20 * 2) / 40)
    assert found.other_rating.value == pytest.approx((20 * 4 + 20 * 1) / 40)
    assert found.live_good is not None
    assert found.live_good.value == pytest.approx(0.5)
    assert found.rating_difference is not None
    assert found.rating_difference.value == pytest.approx(1.0)
    assert found.good_difference is not None
    assert found.good_difference.value == pytest.approx(0.0)
    assert found.rating_difference.low < 1.0 < found.rating_difference.high


def test_the_interval_covers_the_true_effect() -> None:
    """In about 95 of 100 experiments, also where the share changed while everything got better."""
    shares = (0.1, 0.6)
    hits = covered(0.4, 100, lambda seed: compare(simulated(seed, effect=0.4, shares=shares)).rating_difference)
    assert 89 <= hits <= 99


def test_without_an_effect_the_interval_contains_0() -> None:
    """A change of share in a time of better answers is not taken for one; unweighted, it would be."""
    shares = (0.1, 0.6)
    hits = covered(0.0, 100, lambda seed: compare(simulated(seed, effect=0.0, shares=shares)).rating_difference)
    assert 89 <= hits <= 99

    def unweighted(seed: int) -> Interval | None:
        answers = simulated(seed, effect=0.0, shares=shares)
        answers.propensity = [1.0] * len(answers.live)
        return compare(answers).rating_difference

    assert covered(0.0, 40, unweighted) < 20


def test_asking_again_does_not_make_it_surer() -> None:
    """Ten times the same question is one question, so the interval stays as wide as its questions are few."""
    once, often = (compare(simulated(7, effect=0.4, questions=60, repeats=repeats)) for repeats in (1, 10))
    widths = [of.rating_difference.high - of.rating_difference.low for of in (once, often) if of.rating_difference]
    # Only the noise within a question becomes less.
    assert widths[1] > 0.6 * widths[0]


def test_the_resampling_is_a_bootstrap_over_questions() -> None:
    """Drawing kinds of questions gives the interval that drawing the questions themselves gives."""
    answers = simulated(3, effect=0.4, questions=200)
    found = compare(answers).rating_difference
    assert found is not None
    rng = np.random.default_rng(1)
    live, rating = np.array(answers.live), np.array(answers.rating, dtype=float)
    drawn = []
    for _ in range(10_000):
        some = rng.integers(200, size=200)
        drawn.append(rating[some][live[some]].mean() - rating[some][~live[some]].mean())
    assert [found.low, found.high] == pytest.approx(list(np.quantile(drawn, [0.025, 0.975])), abs=0.05)


def test_few_ratings_have_no_interval() -> None:
    """A handful of stars would look surer than they are; the difference waits for both sides."""
    answers = FirstAnswers()
    add(answers, True, 0.5, *[5] * MIN_RATED)
    add(answers, False, 0.5, *[4] * (MIN_RATED - 1))
    found = compare(answers)
    assert found.live_rating == Interval(5, 5, 5)
    assert found.other_rating is None
    assert found.rating_difference is None
    assert compare(FirstAnswers()).live_rating is None
    assert preference([1] * 9, range(9)) is None
    assert preference([1] * 20, [0] * 20) is None
    assert preference([], []) is None
    assert preference([1] * 10, range(10)) == Interval(1, 1, 1)


@pytest.mark.parametrize(
    ("live", "other", "expected"),
    [
        ([5], [2], 1),
        ([2, 4], [4], -1),
        ([3], [3], 0),
        ([5], [], 1),
        ([3], [], 0),
        ([1], [], -1),
        ([], [4], -1),
        ([], [2], 1),
        ([], [], 0),
    ],
)
def test_who_wins(live: list[int], other: list[int], expected: int) -> None:
    """The higher mean; where only one side was rated, a bad rating is no win."""
    assert outcome(live, other) == expected


def interleaved(seed: int, *, better: bool) -> Interval | None:
    """What readers of interleaved lists say who rate the first answer, and a third of them the second as well."""
    rng = random.Random(seed)
    outcomes = []
    for _ in range(200):
        quality = [rng.choice([1, 2, 3, 4, 5]) for _ in range(4)]
        order = list(range(4))
        rng.shuffle(order)
        best_first = sorted(order, key=lambda index: -quality[index])
        live = best_first if better else order
        picks = team_draft(live, order, coin=lambda: rng.random() < 0.5)
        rated = picks[: 2 if rng.random() < 0.3 else 1]
        teams = [[quality[pick.position] for pick in rated if pick.by_first is first] for first in (True, False)]
        outcomes.append(outcome(*teams))
    return preference(outcomes, range(200))


def test_identical_rankings_have_no_preference() -> None:
    """In about 95 of 100 experiments the interval contains 0, and on average it is 0."""
    assert 89 <= covered(0.0, 100, lambda seed: interleaved(seed, better=False)) <= 99
    values = [of.value for seed in range(100) if (of := interleaved(seed, better=False))]
    assert np.mean(values) == pytest.approx(0, abs=0.02)


def test_a_better_ranking_wins() -> None:
    """With 200 rated lists the interval lies above 0."""
    found = [interleaved(seed, better=True) for seed in range(20)]
    assert all(of is not None and of.low > 0 for of in found)
