from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from operation_fakes import TopicEncoder

from rlhf_loop.monitoring.drift import Topics, of_counts, of_numbers, stability_index


def counts(*values: int) -> NDArray[np.intp]:
    return np.array(values, dtype=np.intp)


def test_the_index_is_that_of_the_formula() -> None:
    """Of many values it is the sum of (b - a) ln(b / a) over the shares."""
    many = 1_000_000
    index = stability_index(counts(many // 2, many // 2), counts(many // 5, 4 * many // 5))
    assert index == pytest.approx((0.2 - 0.5) * np.log(0.2 / 0.5) + (0.8 - 0.5) * np.log(0.8 / 0.5), abs=1e-4)


def test_equal_shares_have_no_distance() -> None:
    """The index is 0, and never below, where the shares are equal."""
    assert stability_index(counts(50, 50, 50), counts(10, 10, 10)) == 0


def test_what_chance_brings_is_taken_off() -> None:
    """Two small samples of one distribution have an index near 0, where the plain formula has 0.2."""
    rng = np.random.default_rng(0)
    drawn = [[rng.multinomial(size, np.full(10, 0.1)) for size in (2000, 50)] for _ in range(300)]
    shifts = [of_counts(*both) for both in drawn]
    plain = [np.sum((m / 50 - n / 2000) * np.log((m + 0.5) / 50 / (n / 2000))) for n, m in drawn]
    assert np.mean(plain) > 0.15
    assert np.mean([shift.index for shift in shifts]) < 0.05
    assert np.mean([shift.p < 0.01 for shift in shifts]) < 0.03


def test_bins_that_nothing_is_in_do_no_harm() -> None:
    """A bin that is empty on one side, or on both, gives numbers; where there is one bin alone nothing has moved."""
    shift = of_counts(counts(500, 500, 0, 0), counts(0, 100, 100, 0))
    assert shift.index > 1
    assert shift.p < 1e-6
    assert of_counts(counts(100, 0), counts(50, 0)) == of_counts(counts(1), counts(1))


@pytest.mark.parametrize(("mean", "moved"), [(0.5, False), (0.7, True)])
def test_numbers_that_move(mean: float, moved: bool) -> None:
    """Numbers around another mean have moved; others of the same kind have not."""
    rng = np.random.default_rng(1)
    shift = of_numbers(rng.normal(0.5, 0.2, 400), rng.normal(mean, 0.2, 100))
    assert (shift.index >= 0.2 and shift.p < 0.01) == moved


def test_numbers_that_are_all_equal() -> None:
    """A model that gives one score is no trouble, and another score is a shift."""
    assert of_numbers(np.full(100, 0.5), np.full(60, 0.5)).index == 0
    assert of_numbers(np.full(100, 0.5), np.full(60, 0.9)).index > 1


def texts(topics: str, count: int, name: str) -> NDArray[np.float32]:
    words = topics.split()
    return TopicEncoder().encode([f"{words[number % len(words)]} {name} {number}" for number in range(count)])


def test_topics_that_are_new_are_a_shift() -> None:
    """The same topics have not moved; a new one that takes half of the questions has."""
    topics = Topics(texts("a b c d e f", 400, "reference"))
    same, new = topics.shift(texts("a b c d e f", 100, "later")), topics.shift(texts("a g", 100, "later"))
    assert same.index < 0.1
    assert new.index > 0.5
    assert new.p < 0.001


def test_the_same_question_again_and_again() -> None:
    """A reference of three questions that all repeat makes three topics, and no warning."""
    one = TopicEncoder().encode(["a", "b", "c"])
    assert Topics(np.repeat(one, 50, axis=0)).shift(np.repeat(one, 30, axis=0)).index == 0
    assert Topics(np.repeat(one[:1], 100, axis=0)).shift(np.repeat(one[:1], 30, axis=0)).p == 1
    assert Topics(np.repeat(one[:1], 100, axis=0)).shift(np.repeat(one[1:], 30, axis=0)).index > 1


def test_the_same_seed_gives_the_same_topics() -> None:
    """Twice the same data, twice the same numbers."""
    reference, later = texts("a b c d", 300, "reference"), texts("a b", 80, "later")
    assert Topics(reference).shift(later) == Topics(reference).shift(later)
