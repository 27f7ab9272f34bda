from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from operation_fakes import NOW
from sqlalchemy import Engine

from rlhf_loop.domain import Rating, ReviewerRole
from rlhf_loop.monitoring import checks as module
from rlhf_loop.monitoring.checks import Backlog, backlog
from rlhf_loop.store.interactions import rate, record

LAST_WEEK, TODAY = NOW - timedelta(days=10), NOW - timedelta(hours=1)


def put(engine: Engine, count: int, at: datetime, name: str = "q") -> list[int]:
    return record(engine, [Rating(f"{name} {at} {number}", "answer", created_at=at) for number in range(count)])


def test_nothing_waits(engine: Engine) -> None:
    """An empty database has no backlog."""
    assert backlog(engine, now=NOW) == Backlog(waiting=0, more=False, growth=0)


def test_it_grows_by_what_came_and_was_not_rated(engine: Engine) -> None:
    """What came this week and is rated changes nothing; what waited before and is rated now makes it smaller."""
    old, new = put(engine, 5, LAST_WEEK), put(engine, 8, TODAY)
    for id in (*old[:2], *new[:3]):
        rate(engine, id, rating=4, reviewer="ann", rated_at=TODAY)
    assert backlog(engine, now=NOW) == Backlog(waiting=8, more=False, growth=5 - 2)


def test_second_opinions_and_end_users_make_it_no_smaller(engine: Engine) -> None:
    """An answer that was rated before the week, or by end users alone, did not leave the queue in it."""
    first, second = put(engine, 2, LAST_WEEK)
    rate(engine, first, rating=4, reviewer="ann", rated_at=LAST_WEEK + timedelta(hours=1))
    rate(engine, first, rating=4, reviewer="ben", rated_at=TODAY)
    rate(engine, second, rating=4, reviewer="visitor", rated_at=TODAY, role=ReviewerRole.END_USER)
    assert backlog(engine, now=NOW) == Backlog(waiting=1, more=False, growth=0)


def test_an_answer_that_was_served_often_waits_once(engine: Engine) -> None:
    """The queue gives it once, and not at all where an expert has rated it in another serving."""
    record(engine, [Rating("same", "answer", created_at=TODAY)] * 5)
    ids = record(engine, [Rating("rated", "answer", created_at=TODAY)] * 3)
    rate(engine, ids[0], rating=4, reviewer="ann", rated_at=TODAY)
    assert backlog(engine, now=NOW).waiting == 1


def test_only_the_newest_are_looked_at(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a limit it says that there are more; who asks for more gets more."""
    put(engine, 30, TODAY)
    monkeypatch.setattr(module, "_LOOKED_AT", 10)
    assert backlog(engine, now=NOW) == Backlog(waiting=10, more=True, growth=10)
    assert backlog(engine, now=NOW, at_least=20) == Backlog(waiting=30, more=False, growth=30)
