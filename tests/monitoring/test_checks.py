from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from operation_fakes import NOW, TopicEncoder, put_live, put_questions, put_rated, put_served
from sqlalchemy import Engine, insert

from rlhf_loop.config import Settings
from rlhf_loop.domain import AlarmKind, Rating
from rlhf_loop.monitoring import checks
from rlhf_loop.monitoring.checks import check
from rlhf_loop.store.alarms import Alarm, alarms, raise_alarm
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.interactions import rate, record
from rlhf_loop.store.tables import TrainingRun
from rlhf_loop.utils.translation import packed

SETTINGS = Settings(alarm_queue=20)
#: Alarms that tests raise.
OTHERS = ("It drifts.", "30 wait.", "It is damaged.")
YESTERDAY = NOW - timedelta(days=1)


@pytest.fixture(autouse=True)
def _fresh_memory() -> Iterator[None]:
    checks._drift_seen.clear()
    yield
    checks._drift_seen.clear()


def look(engine: Engine, settings: Settings = SETTINGS, *, now: datetime = NOW) -> list[Alarm]:
    found = check(engine, settings, encoder=TopicEncoder(), now=now)  # type: ignore[arg-type]
    assert all(packed(alarm.message) for alarm in found if alarm.message not in OTHERS), "it cannot be translated"
    return found


def put_run(engine: Engine, status: str, *, at: datetime, error: str | None = None) -> None:
    row = {"run_id": f"{status} {at}", "status": status, "started_at": at, "error": error}
    with transaction(engine) as connection:
        connection.execute(insert(TrainingRun), row)


def test_no_problem_in_a_new_database(engine: Engine) -> None:
    """No check needs anything to be there."""
    assert look(engine) == []
    assert alarms(engine) == []


def test_accuracy_below_the_estimate(engine: Engine) -> None:
    """The alarm has both numbers and what to do; it is over when another version is live."""
    measured = {"overall": {"accuracy": {"value": 0.8, "low": 0.77, "high": 0.83}}}
    live = NOW - timedelta(days=30)
    put_live(engine, made_at=live, metrics=measured)
    scores, good = [0.1, 0.3, 0.6, 0.7, 0.9] * 20, [True, False] * 50
    put_rated(engine, scores, good, served_at=live + timedelta(days=1), rated_at=YESTERDAY)
    (alarm,) = look(engine)
    assert alarm.kind is AlarmKind.ACCURACY
    assert "The live model model-1 is right about 50% (" in alarm.message
    assert "by 100 ratings since it went live, and its training said 80% (77% to 83%)" in alarm.message
    assert "rlhf-loop models rollback" in alarm.message
    assert alarm.detail["version"] == "model-1"
    assert alarm.detail["estimate"] == {"value": 0.8, "low": 0.77, "high": 0.83}
    with transaction(engine) as connection:
        connection.exec_driver_sql("UPDATE rlhf_models SET state = 'retired'")
    put_live(engine, "model-2", made_at=YESTERDAY, metrics=measured)
    assert look(engine) == []


def put_new_topic(engine: Engine) -> None:
    for week in range(8):
        put_questions(engine, week, ["heart", "lung", "liver"] * 20 if week < 6 else ["vaccine"] * 60)


def test_drift(engine: Engine) -> None:
    """The alarm names since when, the reference's days, and the weeks' indices."""
    put_new_topic(engine)
    (alarm,) = look(engine, Settings(alarm_queue=0))
    assert alarm.kind is AlarmKind.DRIFT
    assert alarm.message.startswith("Since the week of 2026-02-16 other questions are asked than from 2026-01-05 to 20")
    assert "(PSI by week: " in alarm.message
    assert alarm.detail == {"since": "2026-02-16", "moved": ["questions"]}


def test_drift_is_looked_for_every_six_hours(engine: Engine) -> None:
    """Between two looks the alarm stays as it is."""
    assert look(engine, Settings(alarm_queue=0)) == []
    put_new_topic(engine)
    assert look(engine, Settings(alarm_queue=0), now=NOW + timedelta(hours=5)) == []
    assert len(look(engine, Settings(alarm_queue=0), now=NOW + timedelta(hours=6))) == 1


def test_without_the_encoder_a_drift_is_not_over(engine: Engine, tmp_path: Path) -> None:
    """Nobody can tell then, so the alarm stays; with it, it is over."""
    raise_alarm(engine, AlarmKind.DRIFT, "It drifts.", now=YESTERDAY)
    nowhere = Settings(encoder_path=tmp_path / "nowhere")
    assert len(check(engine, nowhere, now=NOW)) == 1
    assert look(engine, now=NOW + timedelta(hours=6)) == []


def test_a_source_that_fails(engine: Engine) -> None:
    """Each source has an alarm of its own, which says how often and why, and is over when it works again."""
    put_served(engine, [{"arxiv": "It is busy.", "index": ""}] * 12, until=NOW)
    (alarm,) = look(engine)
    assert (alarm.kind, alarm.subject) == (AlarmKind.SOURCE, "arxiv")
    assert "The source arxiv did not work for 12 of the latest 12 questions: It is busy. Answers come" in alarm.message
    later = NOW + timedelta(minutes=30)
    put_served(engine, [{"arxiv": "", "index": ""}] * 6, until=later - timedelta(minutes=15))
    assert len(look(engine, now=later - timedelta(minutes=15))) == 1
    put_served(engine, [{"arxiv": "", "index": ""}] * 9, until=later)
    assert look(engine, now=later) == []


def put_waiting(engine: Engine, count: int, at: datetime) -> list[int]:
    return record(engine, [Rating(f"q {at} {number}", "answer", created_at=at) for number in range(count)])


def test_a_queue_that_grows(engine: Engine) -> None:
    """It takes more answers than the setting allows and a week in which more came than were rated."""
    old = put_waiting(engine, 20, NOW - timedelta(days=30))
    assert look(engine) == []
    put_waiting(engine, 5, YESTERDAY)
    (alarm,) = look(engine)
    assert alarm.kind is AlarmKind.QUEUE
    assert alarm.message.startswith("25 answers wait for a review, 5 more than a week ago; the alarm is set to 20.")
    for id in old[:4]:
        rate(engine, id, rating=4, reviewer="ann", rated_at=NOW)
    assert "21 answers wait for a review, 1 more" in look(engine)[0].message
    rate(engine, old[4], rating=4, reviewer="ann", rated_at=NOW)
    assert look(engine) == []


def test_a_long_queue_that_gets_shorter(engine: Engine) -> None:
    """Where the experts catch up there is no alarm, and where nothing changes an open one stays."""
    old = put_waiting(engine, 30, NOW - timedelta(days=8))
    raise_alarm(engine, AlarmKind.QUEUE, "30 wait.", now=YESTERDAY)
    assert [alarm.message for alarm in look(engine)] == ["30 wait."]
    rate(engine, old[0], rating=4, reviewer="ann", rated_at=NOW)
    assert look(engine) == []


def test_a_queue_without_a_limit(engine: Engine) -> None:
    """0 turns the alarm off, one that is open included."""
    put_waiting(engine, 30, YESTERDAY)
    assert len(look(engine)) == 1
    assert look(engine, Settings(alarm_queue=0)) == []


def test_a_training_that_failed(engine: Engine) -> None:
    """The latest run counts; a later one that ends well clears the alarm, a model that was refused, too."""
    put_run(engine, "succeeded", at=NOW - timedelta(days=3))
    put_run(engine, "failed", at=NOW - timedelta(days=2), error="OSError: No space left on device\nmore")
    put_run(engine, "running", at=YESTERDAY)
    (alarm,) = look(engine)
    assert alarm.kind is AlarmKind.TRAINING
    assert "The training of 2026-05-22 00:00 UTC failed: OSError: No space left on device. The live" in alarm.message
    put_run(engine, "rejected", at=NOW)
    assert look(engine) == []


@pytest.mark.parametrize("error", ["NotEnoughDataError: Only 12 rated", "KeyboardInterrupt", "SystemExit: 143"])
def test_an_end_that_is_no_fault(engine: Engine, error: str) -> None:
    """Too few ratings, or somebody who stops the run, raise no alarm."""
    put_run(engine, "failed", at=YESTERDAY, error=error)
    assert look(engine) == []


def test_a_training_that_does_not_come(engine: Engine) -> None:
    """Three times `retrain_days` after the last one, if there are new ratings; 0 days turn it off."""
    settings = Settings(retrain_days=7.0)
    put_run(engine, "succeeded", at=NOW - timedelta(days=22))
    (id,) = put_waiting(engine, 1, NOW - timedelta(days=40))
    assert look(engine, settings) == []
    rate(engine, id, rating=4, reviewer="ann", rated_at=YESTERDAY)
    (alarm,) = look(engine, settings)
    assert "the last training was on 2026-05-02 00:00 UTC, and one is due every 7 days" in alarm.message
    assert look(engine, replace(settings, retrain_days=0)) == []
    assert look(engine, replace(settings, retrain_days=8)) == []


def test_a_check_that_fails_does_not_stop_the_others(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, its alarm stays as it is, and the other checks go on."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr(checks, "drift", broken)
    raise_alarm(engine, AlarmKind.DRIFT, "It drifts.", now=YESTERDAY)
    put_run(engine, "failed", at=YESTERDAY, error="OSError: full")
    assert {alarm.kind for alarm in look(engine)} == {AlarmKind.DRIFT, AlarmKind.TRAINING}
    (logged,) = [one for one in caplog.records if one.levelno == logging.ERROR and one.exc_info]
    assert logged.getMessage() == "The check of drift failed; its alarms stay as they are."


def test_alarms_of_others_are_left_alone(engine: Engine) -> None:
    """What the registry raises is returned, and not cleared here."""
    raise_alarm(engine, AlarmKind.MODEL_FILE, "It is damaged.", now=YESTERDAY)
    assert [alarm.kind for alarm in look(engine)] == [AlarmKind.MODEL_FILE]
