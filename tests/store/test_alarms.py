from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest
from sqlalchemy import Engine

from rlhf_loop.domain import AlarmKind
from rlhf_loop.store.alarms import alarms, clear_alarm, open_alarms, raise_alarm

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def test_an_alarm_is_raised_once(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """Seen again, it is the same alarm with its newest words, and it is logged once."""
    assert raise_alarm(engine, AlarmKind.QUEUE, "600 wait.", detail={"waiting": 600}, now=NOON)
    assert not raise_alarm(engine, AlarmKind.QUEUE, "700 wait.", detail={"waiting": 700}, now=NOON + timedelta(hours=1))
    (alarm,) = open_alarms(engine)
    assert (alarm.message, alarm.detail, alarm.kind) == ("700 wait.", {"waiting": 700}, AlarmKind.QUEUE)
    assert (alarm.raised_at, alarm.seen_at, alarm.cleared_at) == (NOON, NOON + timedelta(hours=1), None)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.ERROR, "Alarm (queue): 600 wait.")
    ]


def test_an_alarm_is_cleared_once(engine: Engine) -> None:
    """It keeps when it was over; a second time there is none; and then it may come again."""
    raise_alarm(engine, AlarmKind.SOURCE, "It fails.", subject="arxiv", now=NOON)
    assert clear_alarm(engine, AlarmKind.SOURCE, subject="arxiv", now=NOON + timedelta(hours=1))
    assert not clear_alarm(engine, AlarmKind.SOURCE, subject="arxiv")
    assert open_alarms(engine) == []
    assert raise_alarm(engine, AlarmKind.SOURCE, "Again.", subject="arxiv", now=NOON + timedelta(hours=2))
    newest, first = alarms(engine)
    assert (newest.message, newest.cleared_at) == ("Again.", None)
    assert (first.message, first.cleared_at) == ("It fails.", NOON + timedelta(hours=1))
    assert first.detail == {}


def test_kinds_and_subjects_are_alarms_of_their_own(engine: Engine) -> None:
    """To clear one leaves the others open, the newest first."""
    for place, (kind, subject) in enumerate([("source", "a"), ("source", "b"), ("drift", "")]):
        raise_alarm(engine, AlarmKind(kind), "x", subject=subject, now=NOON + timedelta(minutes=place))
    assert not clear_alarm(engine, AlarmKind.SOURCE)
    assert clear_alarm(engine, AlarmKind.SOURCE, subject="a")
    assert [(alarm.kind, alarm.subject) for alarm in open_alarms(engine)] == [("drift", ""), ("source", "b")]
    assert len(alarms(engine, limit=2)) == 2


def test_two_processes_that_see_the_same_open_one_alarm(engine: Engine) -> None:
    """At the same instant, one of several opens it, and none fails."""
    ready = Barrier(4)

    def see(_: int) -> bool:
        ready.wait()
        return raise_alarm(engine, AlarmKind.TRAINING, "It failed.")

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(see, range(4))) == [False, False, False, True]
    assert len(alarms(engine)) == 1
