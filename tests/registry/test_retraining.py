from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import Engine

from rlhf_loop.config import Settings
from rlhf_loop.domain import Rating, ReviewerRole, RunRecord
from rlhf_loop.registry.runs import begin_run, end_run
from rlhf_loop.registry.schedule import Due, due, last_review
from rlhf_loop.store.interactions import rate, record

NOW = datetime(2026, 5, 20, 12, tzinfo=UTC)
SETTINGS = Settings(retrain_ratings=5, retrain_days=7)


def add(engine: Engine, count: int, *, at: datetime, role: ReviewerRole = ReviewerRole.EXPERT) -> list[int]:
    start = last_review(engine)
    ratings = [
        Rating(f"Question {start + n}?", "An answer.", rating=3, reviewer="anna", rated_at=at, reviewer_role=role)
        for n in range(count)
    ]
    return record(engine, ratings)


def ran(engine: Engine, *, at: datetime, status: str = "succeeded", error: str | None = None) -> None:
    run = begin_run(engine, started_at=at, recipe="auto", encoder="e", split_seed=0)
    ended = RunRecord(status=status, finished_at=at, metrics={"last_review": last_review(engine)}, error=error)
    end_run(engine, run, ended)


def test_the_first_time(engine: Engine) -> None:
    """Nothing is due before 50 answers are rated by experts; then it is."""
    add(engine, 49, at=NOW)
    add(engine, 30, at=NOW, role=ReviewerRole.END_USER)
    assert due(engine, SETTINGS, now=NOW).reason == "Only 49 answers are rated by experts; training needs 50."
    add(engine, 1, at=NOW)
    found = due(engine, SETTINGS, now=NOW)
    assert (found.due, found.reason) == (True, "50 answers are rated, and nothing was trained yet.")


def test_new_ratings(engine: Engine) -> None:
    """Enough new or changed ratings by experts make it due; what was imported late counts, end users do not."""
    ids = add(engine, 60, at=NOW - timedelta(days=3))
    ran(engine, at=NOW - timedelta(days=2))
    assert not due(engine, SETTINGS, now=NOW).due
    add(engine, 20, at=NOW, role=ReviewerRole.END_USER)
    add(engine, 4, at=NOW - timedelta(days=400))
    found = due(engine, SETTINGS, now=NOW)
    assert not found.due
    assert found.reason.startswith("4 ratings are new since the last training at 2026-05-18 12:00 UTC; due with 5")
    rate(engine, ids[0], reviewer="anna", rating=5, rated_at=NOW)
    assert due(engine, SETTINGS, now=NOW).reason == "5 ratings by experts are new since the last training."
    ran(engine, at=NOW, status="rejected")
    assert not due(engine, SETTINGS, now=NOW + timedelta(hours=1)).due


def test_age(engine: Engine) -> None:
    """After a week one new rating is enough, and without any nothing is due, however long it was."""
    add(engine, 60, at=NOW - timedelta(days=30))
    ran(engine, at=NOW - timedelta(days=8))
    assert not due(engine, SETTINGS, now=NOW + timedelta(days=99)).due
    add(engine, 1, at=NOW)
    assert due(engine, SETTINGS, now=NOW).reason == "The last training was 8 days ago, and 1 rating is new."
    assert not due(engine, replace(SETTINGS, retrain_days=9), now=NOW).due


def test_drift(engine: Engine) -> None:
    """Where people ask other things than before, ten new ratings are enough, a day after the last training."""
    add(engine, 60, at=NOW - timedelta(days=30))
    ran(engine, at=NOW - timedelta(days=1))
    settings = replace(SETTINGS, retrain_ratings=50)
    asked: list[datetime] = []

    def drifted() -> date:
        asked.append(NOW)
        return date(2026, 5, 11)

    add(engine, 9, at=NOW)
    assert not due(engine, settings, now=NOW, drifted=drifted).due
    assert not asked
    add(engine, 1, at=NOW)
    assert due(engine, settings, now=NOW, drifted=drifted) == Due(
        True, "Questions or scores have drifted since the week of 2026-05-11, and 10 ratings are new."
    )
    assert not due(engine, settings, now=NOW, drifted=lambda: None).due
    assert not due(engine, settings, now=NOW).due
    assert not due(engine, settings, now=NOW - timedelta(minutes=1), drifted=drifted).due
    assert len(asked) == 1


@pytest.mark.parametrize(("hours", "expected"), [(0.5, False), (1.5, True), (-48, True)])
def test_a_failure_is_not_repeated_at_once(engine: Engine, hours: float, expected: bool) -> None:
    """After a failed run nothing is due for an hour, unless the clock is put back; a failure is no training."""
    add(engine, 60, at=NOW - timedelta(days=30))
    ran(engine, at=NOW, status="failed")
    assert due(engine, SETTINGS, now=NOW + timedelta(hours=hours)).due == expected


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "SystemExit: 143"])
def test_what_was_stopped_may_begin_at_once(engine: Engine, error: str) -> None:
    """A training that somebody stopped, as by a restart of the worker, was no failure: it is due as before."""
    add(engine, 60, at=NOW - timedelta(days=30))
    ran(engine, at=NOW - timedelta(minutes=5), status="failed", error=error)
    assert due(engine, SETTINGS, now=NOW).due
    ran(engine, at=NOW, status="failed", error="OSError: No space left on device")
    ran(engine, at=NOW, status="failed", error=error)
    assert not due(engine, SETTINGS, now=NOW).due
