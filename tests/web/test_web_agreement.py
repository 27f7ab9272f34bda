"""Agreement in words and as small charts."""

from __future__ import annotations

from datetime import date

import pytest
from raters import Visitor, put_answers, put_people, text
from sqlalchemy.engine import Engine

from rlhf_loop.config import Settings
from rlhf_loop.domain import Interval
from rlhf_loop.reviewing import Agreement, RaterReport, WeekPoint
from rlhf_loop.store.interactions import rate
from rlhf_loop.web.pages.oversight import Dot, dots, meaning, weeks_in_words


def found(alpha: float | None, low: float = 0.0, *, answers: int = 40) -> Agreement:
    interval = None if alpha is None else Interval(alpha, low, 0.95)
    return Agreement(alpha=alpha, interval=interval, reason="Why.", answers=answers, reviews=2 * answers, raters=())


@pytest.mark.parametrize(
    ("agreement", "words"),
    [
        (found(None), "No number yet. Why."),
        (found(0.9, 0.85, answers=3), "Only 3 answers"),
        (found(0.9, 0.85), "agree well: their grades"),
        (found(0.9, 0.5), "seem to agree well"),
        (found(0.7, 0.6), "agree fairly"),
        (found(0.3, 0.1), "do not agree enough"),
        (found(-0.2, -0.5), "do not agree enough"),
    ],
)
def test_what_alpha_means(agreement: Agreement, words: str) -> None:
    """Its size, its interval and the number of answers decide what may be concluded."""
    assert words in meaning(agreement)


def rater(*weeks: WeekPoint) -> RaterReport:
    return RaterReport(reviewer="anna", reviews=9, mean_rating=3.0, bias=None, shared=0, weeks=weeks, drift=None)


def week(start: date, mean: float) -> WeekPoint:
    return WeekPoint(start=start, reviews=4, mean_rating=mean, bias=None)


def test_the_chart_of_a_rater() -> None:
    """Weeks stand from left to right as far apart as in time, grades from 1 below to 5 above."""
    three = rater(week(date(2026, 10, 5), 1.0), week(date(2026, 10, 12), 5.0), week(date(2026, 11, 2), 3.0))
    assert dots(three) == [Dot(5.0, 39.0), Dot(42.5, 5.0), Dot(155.0, 22.0)]
    assert weeks_in_words(three).endswith("5 October 2026: 1.0 (4), 12 October 2026: 5.0 (4), 2 November 2026: 3.0 (4)")
    assert (dots(rater()), weeks_in_words(rater())) == ([], "No weeks yet")


def test_everybody_sees_their_own_row(sqlite_engine: Engine) -> None:
    """A rater sees alpha and themselves, an admin all raters; each chart says in words what it shows."""
    put_people(sqlite_engine)
    settings = Settings(database_url=str(sqlite_engine.url), rate_limit="0")
    dora, anna = Visitor(settings, "dora"), Visitor(settings, "anna")
    assert "No number yet" in text(anna.page("/review/agreement"))
    assert "You have not reviewed anything yet." in text(anna.page("/review/agreement"))
    for place, id in enumerate(put_answers(sqlite_engine, 24)):
        rate(sqlite_engine, id, reviewer="anna", rating=1 + place % 5)
        rate(sqlite_engine, id, reviewer="ben", rating=1 + place % 5)
    own, all_rows = anna.page("/review/agreement"), dora.page("/review/agreement")
    assert "1.00" in text(own)
    assert "The raters agree well" in text(own)
    assert ("ben" in text(own), "ben" in text(all_rows), "anna" in text(all_rows)) == (False, True, True)
    assert 'role="img" aria-label="Mean grade by week' in own
