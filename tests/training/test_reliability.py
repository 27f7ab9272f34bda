from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from rlhf_loop.training.reliability import ENOUGH_SHARED, RaterReliability, reliability


def simulated(
    good_right: Sequence[float],
    bad_right: Sequence[float] | None = None,
    *,
    answers: int = 400,
    raters_each: int = 3,
    good: float = 0.55,
    seed: int = 0,
) -> list[RaterReliability]:
    """Let raters who are right so often (on good and on bad answers) rate answers, and judge them by that."""
    rng = np.random.default_rng(seed)
    right_share = np.array([good_right if bad_right is None else bad_right, good_right])
    count = len(good_right)
    truth = (rng.random(answers) < good).astype(np.intp)
    chosen = np.argsort(rng.random((answers, count)), axis=1)[:, :raters_each]
    answer, reviewer = np.repeat(np.arange(answers), chosen.shape[1]), chosen.ravel()
    right = rng.random(len(answer)) < right_share[truth[answer], reviewer]
    rating = np.where(right == truth[answer], rng.integers(4, 6, len(answer)), rng.integers(1, 4, len(answer)))
    return list(reliability(answer, reviewer, rating, [f"r{number}" for number in range(count)]).values())


def weights(raters: Sequence[RaterReliability]) -> list[float]:
    return [rater.weight for rater in raters]


def test_known_accuracies_are_recovered() -> None:
    """From enough shared answers each rater's accuracy is found to a few points."""
    known = [0.95, 0.9, 0.85, 0.7, 0.5, 0.1]
    found = simulated(known, answers=3000)
    assert [rater.accuracy for rater in found] == pytest.approx(known, abs=0.04)
    assert all(abs(rater.overlapping - 1500) < 150 for rater in found)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("raters_each", [2, 3])
def test_ordinary_experts_count_in_full_others_do_not(seed: int, raters_each: int) -> None:
    """Experts of 85 to 92 % keep weight 1, who throws dice has next to none, who says the opposite has none."""
    found = weights(simulated([0.9, 0.92, 0.85, 0.88, 0.5, 0.1], raters_each=raters_each, answers=600, seed=seed))
    assert found[:4] == [1.0] * 4
    assert found[4] <= 0.4
    assert found[5] == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_a_few_shared_answers_condemn_nobody(seed: int) -> None:
    """Below ten shared answers everybody counts in full, however they rate."""
    found = simulated([0.9, 0.9, 0.05], answers=ENOUGH_SHARED - 1, seed=seed)
    assert weights(found) == [1.0] * 3


def test_raters_who_share_nothing_count_in_full() -> None:
    """Without an answer that two have rated there is no evidence, and nobody is doubted."""
    answer = np.arange(30)
    found = reliability(answer, answer % 3, np.full(30, 5), ["a", "b", "c"])
    assert [(each.overlapping, each.weight, each.at_most) for each in found.values()] == [(0, 1.0, 1.0)] * 3
    none = np.empty(0, dtype=np.intp)
    assert reliability(none, none, none, []) == {}


def test_several_reviews_by_one_rater_are_no_evidence() -> None:
    """Who rates an answer that was served twice agrees with nobody but themselves."""
    answer = np.repeat(np.arange(20), 2)
    found = reliability(answer, np.zeros(40, dtype=np.intp), np.tile([1, 5], 20), ["a"])
    assert (found["a"].overlapping, found["a"].weight) == (0, 1.0)


@pytest.mark.parametrize("other", [0.5, 0.1])
def test_of_two_who_disagree_nobody_can_tell_who_is_right(other: float) -> None:
    """Two raters keep their weight even if they contradict each other always."""
    assert weights(simulated([0.9, other])) == [1.0, 1.0]
    answer = np.repeat(np.arange(100), 2)
    always = reliability(answer, np.tile([0, 1], 100), np.tile([5, 1], 100), ["a", "b"])
    assert weights(list(always.values())) == [1.0, 1.0]


def test_who_always_says_the_same_counts_nothing() -> None:
    """Naming everything good is right on most answers and still worth nothing; so is naming everything bad."""
    for constant in (0.99, 0.01):
        found = weights(simulated([0.9, 0.9, 0.9, constant], [0.9, 0.9, 0.9, 1 - constant], good=0.7, answers=800))
        assert found == [1.0, 1.0, 1.0, 0.0]


def test_a_strict_expert_counts() -> None:
    """Who calls a third of the good answers bad, but never a bad one good, is strict and not careless."""
    found = weights(simulated([0.9, 0.9, 0.9, 0.67], [0.9, 0.9, 0.9, 0.99], answers=800))
    assert found[3] >= 0.9


def test_a_majority_of_hostile_raters_wins() -> None:
    """What most say is taken for the truth: two hostile raters silence one honest one, as the module says."""
    assert weights(simulated([0.9, 0.1, 0.1])) == [0.0, 1.0, 1.0]


def test_the_order_of_reviews_and_names_does_not_matter() -> None:
    """Shuffled reviews give the same weights to the last bit."""
    rng = np.random.default_rng(1)
    answer, reviewer = np.repeat(np.arange(200), 3), np.tile([0, 1, 2], 200)
    rating = rng.integers(1, 6, 600)
    rating[reviewer < 2] = np.repeat(rng.integers(1, 6, 200), 2)
    first = reliability(answer, reviewer, rating, ["a", "b", "c"])
    order = rng.permutation(600)
    again = reliability(answer[order], reviewer[order], rating[order], ["a", "b", "c"])
    assert weights(list(first.values())) == weights(list(again.values()))
    assert first["c"].weight < 0.5


def test_many_raters_are_judged_side_by_side() -> None:
    """Of sixty raters the three bad ones are found, and nobody else."""
    found = weights(simulated([0.9] * 57 + [0.5, 0.1, 0.1], answers=6000))
    assert found == [1.0] * 57 + [0.0] * 3
