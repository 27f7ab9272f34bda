"""Figures of the ratings: milestones, satisfaction, agreement, and how raters lean."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from figure_rows import MONDAY, NOW, add, said, shown
from sqlalchemy import Engine

from rlhf_loop.domain import Rating, Review, ReviewerRole
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.interactions import put_review, record

END_USER = {"reviewer": "visitor:1", "reviewer_role": ReviewerRole.END_USER}


@pytest.mark.parametrize(
    ("rated", "words"),
    [
        (0, "No answer is rated yet. With 50 of them a first model can be trained. Experts rate at /review."),
        (1, "1 answer is rated by experts. 49 more, and a first model can be trained."),
        (2, "2 answers are rated by experts. 48 more, and a first model can be trained."),
        (50, "50 answers are rated by experts. 50 more, and there are 100."),
    ],
)
def test_milestones(sqlite_engine: Engine, rated: int, words: str) -> None:
    """The next number worth reaching, counted in answers that experts have rated."""
    answers = [Rating(f"Question {number}?", "Answer.", rating=5, reviewer="anna") for number in range(rated)]
    record(sqlite_engine, [*answers, Rating("Another?", "Answer.", rating=5, **END_USER)])
    found = shown("milestone", sqlite_engine)
    assert found.rows == (("rated answers", rated, 100 if rated >= 50 else 50),)
    assert found.summary == words


def test_satisfaction_by_week(engine: Engine) -> None:
    """Weeks begin on Monday in UTC; experts and end users stay apart, and a week without ratings is a gap."""
    late_sunday = datetime(2026, 5, 17, 23, 59, tzinfo=UTC)
    for number, (rating, at) in enumerate([(5, NOW), (2, NOW), (4, late_sunday), (1, NOW - timedelta(days=999))]):
        add(engine, number, rating=rating, reviewer="anna", rated_at=at)
    add(engine, 9, rating=1, rated_at=NOW - timedelta(weeks=4), **END_USER)
    found = shown("satisfaction", engine)
    assert found.rows == (
        (date(2026, 4, 20), 0, None, None, 1, 1.0, 0.0),
        (date(2026, 5, 11), 1, 4.0, 1.0, 0, None, None),
        (MONDAY, 2, 3.5, 0.5, 0, None, None),
    )
    assert said("satisfaction", engine) == (
        "Experts gave 4 or 5 to 50 % of the answers that they rated in the week of 18 May 2026 (2 ratings, 3.5 on "
        "average). End users gave 4 or 5 to 0 % of the answers that they rated in the week of 20 April 2026 (1 rating, "
        "1.0 on average)."
    )


def review(engine: Engine, grades: dict[str, list[int]], *, at: datetime, name: str) -> None:
    """Each rater grades the same answers."""
    count = len(next(iter(grades.values())))
    ids = record(engine, [Rating(f"{name} {number}?", "answer") for number in range(count)])
    with transaction(engine) as connection:
        for rater, given in grades.items():
            for id, grade in zip(ids, given, strict=True):
                put_review(connection, id, Review(rating=grade, reviewer=rater, reviewed_at=at))


def test_agreement_by_month(engine: Engine) -> None:
    """Each month with shared answers has their number, and its alpha where they are enough; the last one is told."""
    same = [1, 2, 3, 4, 5] * 4
    review(engine, {"anna": same, "bela": same}, at=datetime(2026, 3, 31, 23, tzinfo=UTC), name="march")
    review(engine, {"anna": [1, 5] * 10, "bela": [5, 1] * 10}, at=datetime(2026, 4, 1, tzinfo=UTC), name="april")
    review(engine, {"anna": [1, 5], "bela": [5, 1]}, at=NOW, name="may")
    found = shown("agreement", engine)
    assert [row[:2] for row in found.rows] == [(date(2026, 3, 1), 20), (date(2026, 4, 1), 20), (date(2026, 5, 1), 2)]
    assert found.rows[0][2:] == (1.0, 1.0, 1.0)
    assert found.rows[1][2] < -0.5  # type: ignore[operator]
    assert found.rows[2][2:] == (None, None, None)
    assert found.summary.startswith("In April 2026 Krippendorff's alpha was -0.95, by 20 answers")
    assert "Talk about answers with different grades" in found.summary


def test_who_leans(engine: Engine) -> None:
    """A rater who grades half a point above or below the others is named, if enough answers are shared."""
    review(engine, {"anna": [3] * 19, "bela": [5] * 19}, at=NOW, name="few")
    assert said("raters", engine).startswith("No rater shares 20 answers with others yet.")
    review(engine, {"anna": [3], "bela": [4]}, at=NOW, name="one more")
    found = shown("raters", engine)
    assert [(row[0], row[3], row[4]) for row in found.rows] == [("anna", 20, -1.95), ("bela", 20, 1.95)]
    assert "anna grades 1.9 below the others and bela grades 1.9 above the others" in found.summary.replace(
        "2.0", "1.9"
    )


def test_nobody_leans(sqlite_engine: Engine) -> None:
    """Where all grade alike, that is said."""
    review(sqlite_engine, {"anna": [1, 5] * 10, "bela": [1, 5] * 10}, at=NOW, name="same")
    assert said("raters", sqlite_engine) == "Nobody grades far above or below the others on the same answers."


def test_of_many_raters_the_most_active_are_drawn(sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those with the most reviews come first, and the others are counted, with where they are."""
    monkeypatch.setattr("rlhf_loop.monitoring.figures.rating_figures._MOST_RATERS", 2)
    review(sqlite_engine, {"anna": [1, 5], "bela": [1, 5]}, at=NOW, name="two")
    assert "most reviews" not in said("raters", sqlite_engine)
    review(sqlite_engine, {"bela": [3], "cleo": [4]}, at=NOW, name="shared")
    review(sqlite_engine, {"cleo": [2, 2, 5]}, at=NOW, name="alone")
    assert [row[:2] for row in shown("raters", sqlite_engine).rows] == [("cleo", 4), ("bela", 3)]
    assert said("raters", sqlite_engine).endswith(
        "Here are the 2 with the most reviews; 1 more is at /review/agreement."
    )
