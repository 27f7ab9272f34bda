from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import krippendorff
import numpy as np
import pytest
from sqlalchemy import Engine

from rlhf_loop.domain import Rating, Review, ReviewerRole
from rlhf_loop.reviewing import Agreement, RaterReport, agreement
from rlhf_loop.reviewing.agreement import alphas
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.interactions import put_review, record

MONDAY = datetime(2025, 5, 5, 9, tzinfo=UTC)

#: Four observers and twelve units, with values missing: the worked example of Krippendorff, "Computing Krippendorff's
#: Alpha-Reliability" (2011), https://repository.upenn.edu/asc_papers/43. Its ordinal alpha is 0.815.
PUBLISHED = ("1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 .")


def reviewed(engine: Engine, *raters: str, role: ReviewerRole = ReviewerRole.EXPERT) -> list[int]:
    """Store what each rater said of the answers, one answer a day; a dot is no review."""
    grades = [line.split() for line in raters]
    ids = record(engine, [Rating(f"question {n}", "answer") for n in range(len(grades[0]))])
    with transaction(engine) as connection:
        for number, line in enumerate(grades):
            for day, (id, grade) in enumerate(zip(ids, line, strict=True)):
                if grade != ".":
                    moment = MONDAY + timedelta(days=day)
                    review = Review(rating=int(grade), reviewer=f"rater-{number}", role=role, reviewed_at=moment)
                    put_review(connection, id, review)
    return ids


def of(found: Agreement, reviewer: str) -> RaterReport:
    return next(each for each in found.raters if each.reviewer == reviewer)


def test_alpha_is_that_of_the_published_example(engine: Engine) -> None:
    """The ordinal alpha of Krippendorff's own example is 0.815; units with one value do not count."""
    reviewed(engine, *PUBLISHED)
    found = agreement(engine)
    assert found.alpha == pytest.approx(0.815, abs=0.0005)
    assert (found.answers, found.reviews, found.reason) == (11, 40, None)
    assert found.interval is not None
    assert found.interval.low < found.interval.value < found.interval.high <= 1


@pytest.mark.parametrize(
    ("one", "other", "alpha"),
    [
        ("1 2 3 4 5", "1 2 3 4 5", 1.0),
        # The four ratings have one pair of grades between them and the other way round: 1 - 3 * 2 / 4.
        ("1 5", "5 1", -0.5),
        ("1 5 1 5", "1 5 5 1", 0.125),
    ],
)
def test_alpha_of_cases_worked_by_hand(engine: Engine, one: str, other: str, alpha: float) -> None:
    """Full agreement is 1; ratings that only contradict each other are below 0."""
    reviewed(engine, one, other)
    assert agreement(engine).alpha == pytest.approx(alpha)


@pytest.mark.parametrize(
    ("raters", "reason"),
    [
        ((". . .",), "No answer has been rated by two experts"),
        (("1 2 3",), "No answer has been rated by two experts"),
        (("1 2 .", ". . 5"), "No answer has been rated by two experts"),
        (("4 4 1", "4 4 ."), "All shared ratings are 4"),
    ],
)
def test_without_an_alpha_there_is_a_reason(engine: Engine, raters: tuple[str, ...], reason: str) -> None:
    """One rater, no shared answer, or nothing that differs: None, and why, but no error and no warning."""
    reviewed(engine, *raters)
    found = agreement(engine)
    assert (found.alpha, found.interval) == (None, None)
    assert found.reason is not None
    assert found.reason.startswith(reason)


def test_two_shared_answers_are_enough_to_begin_with(engine: Engine) -> None:
    """With very few answers many resamples have no alpha; that is no error and no warning."""
    reviewed(engine, "1 5", "1 4")
    assert agreement(engine).alpha == pytest.approx(0.9, abs=0.2)


def test_end_users_do_not_count(engine: Engine) -> None:
    """Alpha and the reports are about experts only."""
    reviewed(engine, "1 2 3", "5 4 1", role=ReviewerRole.END_USER)
    found = agreement(engine)
    assert (found.alpha, found.answers, found.raters) == (None, 0, ())


def test_many_samples_at_once_are_the_librarys_one_by_one() -> None:
    """Our formula, which computes all resamples together, gives what the library gives for each."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(3, [0.1, 0.2, 0.3, 0.3, 0.1], size=40)
    counts[:10] = rng.multinomial(2, [0.2] * 5, size=10)
    times = rng.integers(0, 4, size=(20, 40))
    expected = [
        krippendorff.alpha(value_counts=np.repeat(counts, row, axis=0), level_of_measurement="ordinal") for row in times
    ]
    assert alphas(counts, times) == pytest.approx(expected)
    assert np.isnan(alphas(np.array([[0, 0, 0, 2, 0]]), np.array([[7]]))).all()


def test_the_interval_is_the_same_for_the_same_seed(engine: Engine) -> None:
    """The bootstrap depends on its seed alone, and narrows with more answers."""
    reviewed(engine, *PUBLISHED)
    assert agreement(engine, seed=1) == agreement(engine, seed=1)
    few = agreement(engine).interval
    for _ in range(4):
        reviewed(engine, *PUBLISHED)
    many = agreement(engine).interval
    assert few is not None
    assert many is not None
    assert many.high - many.low < few.high - few.low


def test_a_raters_bias_is_against_the_median_of_the_others(engine: Engine) -> None:
    """Bias is the mean difference on shared answers; answers that a rater rated alone count as reviews only."""
    reviewed(engine, "5 5 4 1", "3 3 2 .", "4 2 2 .")
    found = of(agreement(engine), "rater-0")
    # 5 - 3.5, 5 - 2.5 and 4 - 2
    assert (found.reviews, found.shared, found.bias) == (4, 3, pytest.approx(2.0))
    assert found.mean_rating == pytest.approx(15 / 4)
    assert found.drift is None


def test_weeks_begin_on_monday(engine: Engine) -> None:
    """A rater's weeks are in order, each with its reviews, mean and bias; an empty week has no point."""
    reviewed(engine, "5 " * 7 + ". " * 7 + "2 4", "4 " * 7 + ". " * 7 + ". .")
    weeks = of(agreement(engine), "rater-0").weeks
    assert [(week.start, week.reviews, week.mean_rating, week.bias) for week in weeks] == [
        (date(2025, 5, 5), 7, 5.0, 1.0),
        (date(2025, 5, 19), 2, 3.0, None),
    ]


def test_a_drift_shows_as_one(engine: Engine) -> None:
    """Who grades like others at first and two grades higher later has a drift of two; the other has the opposite."""
    reviewed(engine, "3 2 " * 10 + "5 4 " * 10, "3 2 " * 20)
    drift = of(agreement(engine), "rater-0").drift
    assert drift is not None
    assert (drift.value, drift.low, drift.high) == (2.0, 2.0, 2.0)
    other = of(agreement(engine), "rater-1").drift
    assert other is not None
    assert other.value == -2.0


def test_chance_is_no_drift(engine: Engine) -> None:
    """Differences that come and go leave 0 inside the interval."""
    reviewed(engine, "3 4 2 3 " * 10, "3 3 3 3 " * 10)
    drift = of(agreement(engine), "rater-0").drift
    assert drift is not None
    assert drift.low < 0 < drift.high
