from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from examined import faults
from sqlalchemy import Engine

from rlhf_loop.cli.doctor.loop import alarms, ratings, training
from rlhf_loop.config import Settings
from rlhf_loop.domain import AlarmKind, Rating, RunRecord
from rlhf_loop.registry.runs import begin_run, end_run, runs, training_lock
from rlhf_loop.store.alarms import clear_alarm, raise_alarm
from rlhf_loop.store.interactions import record

NOW = datetime(2027, 3, 1, 12, 30, tzinfo=UTC)


def rate(engine: Engine, count: int) -> None:
    record(engine, [Rating(f"Question {number}?", f"Answer {number}.", rating=4) for number in range(count)])


def trained(engine: Engine, status: str, error: str | None = None, *, ago: timedelta = timedelta(hours=3)) -> None:
    run = begin_run(engine, started_at=NOW - ago, recipe="auto", encoder="e", split_seed=0)
    if status != "running":
        end_run(engine, run, RunRecord(status=status, error=error))


def test_what_is_missing_to_a_training_is_no_fault(engine: Engine) -> None:
    """The number of rated answers is told, and how many more it takes; unrated ones do not count."""
    rate(engine, 12)
    record(engine, [Rating("And this?", "Nobody knows.")])
    (found,) = ratings(engine)
    assert (found.ok, found.text) == (True, "12 answers are rated by experts; 38 more and a model can be trained (50)")
    rate(engine, 38)
    (found,) = ratings(engine)
    assert found.text == "50 answers are rated by experts"


def test_before_the_first_training(engine: Engine) -> None:
    """That there was none is no fault."""
    (found,) = training(engine, Settings(), NOW)
    assert (found.ok, found.text) == (True, "there was none yet")


def test_a_training_that_went_well(engine: Engine) -> None:
    """It is told when it was, and whether another one is due."""
    trained(engine, "failed", "ValueError: long ago", ago=timedelta(days=9))
    trained(engine, "succeeded")
    ended, due = training(engine, Settings(), NOW)
    assert (ended.ok, ended.text) == (True, "the last one, of 2027-03-01 09:30 UTC, succeeded")
    assert "training needs 50" in due.text


def test_a_training_that_failed_is_a_fault(engine: Engine) -> None:
    """The first line of its error is told, with the command for afterwards."""
    trained(engine, "succeeded", ago=timedelta(days=2))
    trained(engine, "failed", "ModelFileError: the disk is full.\nAnd much more.")
    (fault,) = faults(training(engine, Settings(), NOW))
    assert fault.text == "the last one, of 2027-03-01 09:30 UTC, failed: ModelFileError: the disk is full"
    assert fault.advice.endswith("rlhf-loop retrain")


@pytest.mark.parametrize("error", ["NotEnoughDataError: only 3", "KeyboardInterrupt", "SystemExit: 143"])
def test_a_training_that_was_stopped_is_no_fault(engine: Engine, error: str) -> None:
    """Too few ratings, and somebody who stopped it, need no attention, as there is no alarm of them."""
    trained(engine, "failed", error)
    ended, _ = training(engine, Settings(), NOW)
    assert (ended.ok, error in ended.text) == (True, True)


def test_a_model_that_was_refused_is_no_fault(engine: Engine) -> None:
    """The gate has done what it is for, and it is said where to read why."""
    trained(engine, "rejected")
    ended, _ = training(engine, Settings(), NOW)
    assert (ended.ok, "rlhf-loop models list" in ended.text) == (True, True)


@pytest.mark.parametrize(
    ("ago", "ok", "said"),
    [
        (timedelta(minutes=7), True, "since 2027-03-01 12:23 UTC, for 7 min"),
        (timedelta(hours=2, minutes=5), True, "since 2027-03-01 10:25 UTC, for 2 h 5 min"),
        (timedelta(days=1, hours=2), False, "since 2027-02-28 10:30 UTC, for 1 day and 2 h"),
        (timedelta(minutes=-5), True, "since 2027-03-01 12:35 UTC, for 0 min"),
    ],
)
def test_a_running_training_is_timed(engine: Engine, tmp_path: Path, ago: timedelta, ok: bool, said: str) -> None:
    """One that runs for more than a day was killed, most likely; the last one that ended is told all the same."""
    trained(engine, "succeeded", ago=timedelta(days=30))
    trained(engine, "running", ago=ago)
    # On another machine, as far as this one can tell.
    running, ended, _ = training(engine, Settings(model_path=tmp_path / "model.joblib"), NOW)
    assert (running.ok, running.text) == (ok, f"one is running {said}")
    assert "succeeded" in ended.text


def test_a_training_that_was_killed_is_a_fault(engine: Engine, tmp_path: Path) -> None:
    """Its lock is free, so nobody trains; whoever looks does not mark it."""
    settings = Settings(model_path=tmp_path / "model.joblib")
    trained(engine, "running")
    with training_lock(engine, settings):
        trained(engine, "running")
        found, *_ = training(engine, settings, NOW)
        assert found.text.startswith("one is running since 2027-03-01 09:30 UTC")
    killed, *_ = training(engine, settings, NOW)
    assert killed.text == "one that began at 2027-03-01 09:30 UTC was killed"
    assert killed.advice == "Train again: rlhf-loop retrain"
    assert runs(engine)[0].status == "running"


def test_open_alarms_are_one_fault(engine: Engine) -> None:
    """By their kinds, with the command that says more; those that are over do not count."""
    assert faults(alarms(engine)) == []
    raise_alarm(engine, AlarmKind.SOURCE, "It fails.", subject="arxiv")
    raise_alarm(engine, AlarmKind.DRIFT, "Other questions.")
    (fault,) = faults(alarms(engine))
    assert fault.text.startswith("2 are open: ")
    assert sorted(fault.text.partition(": ")[2].split(", ")) == ["drift", "source arxiv"]
    clear_alarm(engine, AlarmKind.SOURCE, subject="arxiv")
    (fault,) = faults(alarms(engine))
    assert (fault.text, fault.advice) == ("1 is open: drift", "Run: rlhf-loop alarms")
