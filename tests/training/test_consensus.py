from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import pytest
from databases import rate_all
from sqlalchemy import Engine, text

from rlhf_loop.domain import Rating, ReviewerRole
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.interactions import rate, record
from rlhf_loop.training.data import examples, training_set
from rlhf_loop.training.reliability import consensus

#: What raters say of a good answer and of a bad one.
HONEST, HOSTILE = (5, 1), (1, 5)


def fill(engine: Engine, raters: Mapping[str, tuple[int, int]], *, shared: int = 40, own: int = 10) -> list[int]:
    """Store answers, every second one good: the first ones rated by all raters, then some by each alone."""
    count = shared + own * len(raters)
    ids = record(engine, [Rating(f"Question {n // 5}?", f"Answer {n}.", shown_rank=n % 5 + 1) for n in range(count)])
    by = [list(raters) if number < shared else [list(raters)[(number - shared) // own]] for number in range(count)]
    rate_all(engine, ((ids[n], name, raters[name][n % 2]) for n, names in enumerate(by) for name in names))
    return ids


def test_the_middle_is_by_weight() -> None:
    """The middle rating has half of the weight on either side; of two equal ones it is the lower."""
    cases: list[tuple[list[int], list[float], tuple[int, float] | None]] = [
        ([5], [1.0], (5, 1.0)),
        ([5, 1], [1.0, 1.0], (1, 1.0)),
        ([5, 1], [1.0, 0.5], (5, 1.0)),
        ([1, 3, 5], [1.0, 1.0, 1.0], (3, 1.0)),
        ([1, 1, 5], [0.3, 0.3, 1.0], (5, 1.0)),
        ([1, 1, 5], [0.5, 0.5, 1.0], (1, 1.0)),
        ([2, 4], [0.3, 0.3], (2, 0.3)),
        ([2, 4], [0.0, 0.25], (4, 0.25)),
        ([2, 4], [0.0, 0.0], None),
    ]
    number = np.concatenate([np.full(len(ratings), place) for place, (ratings, _, _) in enumerate(cases)])
    ratings = np.concatenate([ratings for ratings, _, _ in cases])
    weights = np.concatenate([weights for _, weights, _ in cases])
    order = np.random.default_rng(0).permutation(len(number))
    found = consensus(number[order], ratings[order], weights[order])
    expected = [(place, *result) for place, (_, _, result) in enumerate(cases) if result]
    assert list(zip(found.answer.tolist(), found.rating.tolist(), found.weight.tolist(), strict=True)) == expected


def test_equal_weights_give_the_lower_median() -> None:
    """With weight 1 for all it is the median that the database's triggers keep."""
    rng = random.Random(0)
    for _ in range(50):
        ratings = [rng.randint(1, 5) for _ in range(rng.randint(1, 9))]
        found = consensus(np.zeros(len(ratings), dtype=np.intp), np.array(ratings), np.ones(len(ratings)))
        assert found.rating.tolist() == [sorted(ratings)[(len(ratings) - 1) // 2]]


@pytest.mark.parametrize("shared", [0, 40])
def test_as_long_as_nobody_is_doubted_nothing_changes(engine: Engine, shared: int) -> None:
    """Experts who agree, or share nothing, give the very same training data with weighting and without."""
    fill(engine, {"ann": HONEST, "bob": HONEST, "cyd": HONEST}, shared=shared)
    with_it, without = training_set(engine, reviewer_weighting=True), training_set(engine)
    assert with_it.fingerprint == without.fingerprint
    assert (with_it.raters, with_it.disregarded) == ((), 0)
    assert examples(engine, reviewer_weighting=True) == examples(engine)


def test_a_hostile_rater_is_left_out(engine: Engine) -> None:
    """Where others have rated, too, their word decides; where nobody has, the answer is as good as unrated."""
    ids = fill(engine, {"ann": HONEST, "bob": HONEST, "eve": HOSTILE})
    rate(engine, ids[-1], reviewer="visitor:1", rating=5, role=ReviewerRole.END_USER)
    data = training_set(engine, reviewer_weighting=True)
    assert [(rater.reviewer, rater.overlapping, rater.weight) for rater in data.raters] == [("eve", 40, 0.0)]
    assert data.disregarded == 10
    assert (len(data.row), set(data.weight.tolist())) == (60, {1.0})
    by_answer = {each.response: each for each in examples(engine, reviewer_weighting=True, end_user_weight=0.25)}
    # The questions that eve alone has rated are gone, but for that of the end user.
    assert len(by_answer) == 65
    for number in range(60):
        assert by_answer[f"Answer {number}."].rating == HONEST[number % 2]
    assert [by_answer[f"Answer {number}."].rating for number in range(65, 69)] == [None] * 4
    assert (by_answer["Answer 69."].rating, by_answer["Answer 69."].role) == (5, ReviewerRole.END_USER)


def test_the_word_of_who_is_doubted_counts_less(engine: Engine) -> None:
    """A rater who is sometimes right gets a part of the weight, and so do the answers that nobody else has rated."""
    ids = fill(engine, {"ann": HONEST, "bob": HONEST, "cyd": HONEST})
    # Right about three answers of four.
    rate_all(engine, ((ids[n], "dan", (HONEST if n % 8 < 5 else HOSTILE)[n % 2]) for n in range(40)))
    (alone,) = record(engine, [Rating("Question 0?", "Yet another answer.")])
    rate(engine, alone, reviewer="dan", rating=4)
    (dan,) = training_set(engine, reviewer_weighting=True).raters
    assert dan.reviewer == "dan"
    assert 0.2 <= dan.weight < 1
    by_answer = {each.response: each for each in examples(engine, reviewer_weighting=True)}
    assert (by_answer["Yet another answer."].rating, by_answer["Yet another answer."].weight) == (4, dan.weight)
    assert {each.weight for each in by_answer.values()} == {1.0, dan.weight}


def test_servings_of_one_answer_are_shared(engine: Engine) -> None:
    """Experts who rated different servings of an answer have rated the same answer."""
    for name, said in (("ann", HONEST), ("bob", HONEST), ("eve", HOSTILE)):
        record(engine, [Rating(f"Question {n}?", f"Answer {n}.", said[n % 2], reviewer=name) for n in range(30)])
    data = training_set(engine, reviewer_weighting=True)
    assert [(rater.reviewer, rater.overlapping) for rater in data.raters] == [("eve", 30)]
    assert sorted(data.rating.tolist()) == [1] * 15 + [5] * 15


def test_end_users_are_not_judged(engine: Engine) -> None:
    """What end users say neither makes nor loses an expert's credit."""
    ids = fill(engine, {"ann": HONEST, "bob": HONEST})
    rate_all(engine, ((id, f"visitor:{each}", 3) for id in ids for each in range(3)), role=ReviewerRole.END_USER)
    assert training_set(engine, end_user_weight=1.0, reviewer_weighting=True).raters == ()


def test_an_empty_database_has_no_raters(engine: Engine) -> None:
    """Without reviews there is nobody to judge, and an answer without a review is no obstacle."""
    assert examples(engine, reviewer_weighting=True) == []
    record(engine, [Rating("q", "a"), Rating("q", "a")])
    data = training_set(engine, reviewer_weighting=True)
    assert (len(data.row), data.raters) == (0, ())


def test_ratings_by_plain_sql_are_anonymous_reviews(engine: Engine) -> None:
    """Who sets a rating without a name is the rater `anonymous`, and judged as one."""
    ids = fill(engine, {"ann": HONEST, "bob": HONEST}, own=0)
    fresh = record(engine, [Rating("Question 99?", f"New {number}.") for number in range(2)])
    with transaction(engine) as connection:
        connection.execute(text("UPDATE rlhf_interactions SET rating = 1 WHERE id = :id"), {"id": fresh[0]})
    for number, id in enumerate(ids):
        rate(engine, id, rating=HOSTILE[number % 2])
    data = training_set(engine, reviewer_weighting=True)
    assert [(rater.reviewer, rater.weight) for rater in data.raters] == [("anonymous", 0.0)]
    assert data.disregarded == 1
