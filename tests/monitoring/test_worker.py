from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, Self

import pytest
from databases import sqlite_database
from loopback import page, site
from patience import PATIENCE_S, until

from rlhf_loop.config import Settings
from rlhf_loop.domain import AlarmKind, Rating
from rlhf_loop.errors import ConfigError, DatabaseError
from rlhf_loop.monitoring import webhook
from rlhf_loop.monitoring import worker as module
from rlhf_loop.monitoring.crontab import Schedule
from rlhf_loop.monitoring.worker import Worker
from rlhf_loop.registry.runs import begin_run, runs
from rlhf_loop.store.alarms import alarms, open_alarms, raise_alarm
from rlhf_loop.store.backup import Backup, back_up, back_up_into, last_backup, look
from rlhf_loop.store.engine import make_engine, open_database
from rlhf_loop.store.interactions import record

#: A training that does nothing but end with some exit code.
ENDS = "import sys; print('what it says'); sys.exit(int(sys.argv[1]))"
#: One that lasts, leaves a file once it runs, and another one when it is told to end.
LASTS = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])

def end(number, frame):
    (folder / "ended").touch()
    sys.exit(143)

signal.signal(signal.SIGTERM, end)
(folder / "running").touch()
time.sleep(600)
"""
#: One that does not listen.
DEAF = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
(pathlib.Path(sys.argv[1]) / "running").touch()
time.sleep(600)
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        database_url=sqlite_database(tmp_path / "rlhf.db"), model_path=tmp_path / "m.joblib", encoder_path=tmp_path
    )


def python(code: str, *values: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, values)]


@pytest.mark.parametrize(
    ("crontab", "after"),
    [
        ("0 * * * *", "2026-05-20T13:00"),
        ("30 3 * * 1-5", "2026-05-21T03:30"),
        # Sunday is 0, as in a crontab; and 7, too.
        ("15 4 * * 0", "2026-05-24T04:15"),
        ("15 4 * * 7", "2026-05-24T04:15"),
        ("0 0 1 */3 *", "2026-07-01T00:00"),
    ],
)
def test_schedule(crontab: str, after: str) -> None:
    """The next time is the one that a crontab means, in UTC."""
    now = datetime(2026, 5, 20, 12, 30, tzinfo=UTC)
    expected = datetime.fromisoformat(after).replace(tzinfo=UTC)
    assert Schedule(crontab).after(now) == expected


@pytest.mark.parametrize(
    ("crontab", "reason"),
    [
        ("daily", "1 fields instead of 5"),
        ("0 0 * * * *", "6 fields instead of 5"),
        ("61 * * * *", "minute"),
        ("0 0 31 2 *", "day-of-month"),
        ("a b c d e", "minute"),
    ],
)
def test_bad_schedules(settings: Settings, crontab: str, reason: str) -> None:
    """What is no time, or none that ever comes, is an error that shows it and an example."""
    with pytest.raises(ConfigError, match=reason) as caught:
        Worker(replace(settings, worker_schedule=crontab), retrain=[])
    assert f"RLHF_WORKER_SCHEDULE={crontab!r}" in str(caught.value)
    assert "30 3 * * 1-5" in str(caught.value)


def test_backups(settings: Settings, tmp_path: Path) -> None:
    """With a folder the worker writes them there; an alarm is open while the last one failed."""
    with pytest.raises(ConfigError, match="RLHF_BACKUP_SCHEDULE='nightly'"):
        Worker(replace(settings, backup_schedule="nightly"), retrain=[])
    folder = tmp_path / "backups"
    folder.touch()
    worker = Worker(replace(settings, backup_path=folder), retrain=python(ENDS, 0))
    engine = make_engine(settings.database_url)
    # Nothing is there yet.
    assert worker.once()
    record(engine, [Rating("Kept?", "Kept.")])
    assert not worker.once()
    (alarm,) = open_alarms(engine)
    assert (alarm.kind, "cannot be written" in alarm.message) == ("backup", True)
    folder.unlink()
    settings.outbox_path.write_bytes(b"no database" * 1000)
    assert not worker.once()
    (alarm,) = open_alarms(engine)
    assert alarm.message.startswith("The backup is there, but lacks what could not be read: The outbox ")
    settings.outbox_path.unlink()
    assert worker.once()
    assert open_alarms(engine) == []
    made = max(folder.glob("*.zip"))
    assert look(made).lacking == ()
    last = last_backup(engine)
    assert last is not None
    assert (last.file, last.bytes) == (str(made), made.stat().st_size)
    engine.dispose()


def test_a_backup_that_another_one_writes(settings: Settings, tmp_path: Path) -> None:
    """A second worker, or one while an operator writes a backup there, raises no alarm."""
    engine = open_database(settings.database_url)
    record(engine, [Rating("Kept?", "Kept.")])
    worker = Worker(replace(settings, backup_path=tmp_path), retrain=python(ENDS, 0))

    def meanwhile(done: int, total: int) -> None:
        if done < total:
            return
        assert worker.once()
        assert open_alarms(engine) == []

    back_up(engine, settings, tmp_path / "made.zip", actor="ada", progress=meanwhile)
    assert [path.name for path in tmp_path.glob("*.zip")] == ["made.zip"]
    engine.dispose()


def test_a_backup_for_which_there_is_no_room(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alarm names the folder that is full; once there is room again, it is over."""
    engine = open_database(settings.database_url)
    record(engine, [Rating("Kept?", "Kept.")])
    worker = Worker(replace(settings, backup_path=tmp_path), retrain=python(ENDS, 0))

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert not worker.once()
    (alarm,) = open_alarms(engine)
    assert f"No space left on device. Make room in {tmp_path}, or choose another place." in alarm.message
    assert worker.once()
    assert open_alarms(engine) == []
    engine.dispose()


@pytest.mark.parametrize(("minutes", "slow"), [(59, False), (61, True)])
def test_a_backup_that_takes_longer_than_its_interval(
    settings: Settings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    minutes: int,
    slow: bool,
) -> None:
    """It is there, and the log says that what was due meanwhile is left out."""
    engine = open_database(settings.database_url)
    record(engine, [Rating("Kept?", "Kept.")])
    engine.dispose()
    moment = datetime(2026, 5, 20, 3, tzinfo=UTC)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return moment

    def late(*arguments: Any, **options: Any) -> Backup:
        nonlocal moment
        moment += timedelta(minutes=minutes)
        return back_up_into(*arguments, **options)

    monkeypatch.setattr(module, "datetime", Clock)
    monkeypatch.setattr(module, "back_up_into", late)
    hourly = replace(settings, backup_path=tmp_path, backup_schedule="0 * * * *")
    assert Worker(hourly, retrain=python(ENDS, 0)).once()
    assert ("longer than from one time of RLHF_BACKUP_SCHEDULE to the next" in caplog.text) is slow


@pytest.mark.parametrize(
    ("code", "level", "words", "fine"),
    [
        (0, logging.INFO, "is live, or nothing was due", True),
        (3, logging.WARNING, "waits or is refused", True),
        (75, logging.INFO, "another training is running", True),
        (2, logging.ERROR, "it failed", False),
    ],
)
def test_the_end_of_a_training(
    settings: Settings, caplog: pytest.LogCaptureFixture, code: int, level: int, words: str, fine: bool
) -> None:
    """What a training said and how it ended is logged; that a model was refused is no failure of the worker."""
    caplog.set_level(logging.INFO, logger=module.__name__)
    assert Worker(settings, retrain=python(ENDS, code)).once() is fine
    (record,) = [record for record in caplog.records if "Retraining ended" in record.message]
    assert (record.levelno, record.exit_code, record.said) == (level, code, "what it says")
    assert words in record.message


@pytest.mark.kill
def test_a_training_that_is_killed(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """The log names the signal, and the next jobs are done."""
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert not Worker(settings, retrain=python(kill)).once()
    assert "Retraining ended with exit code -9: killed by signal 9." in caplog.messages


def test_killed_runs_are_marked(settings: Settings) -> None:
    """A run whose process died is marked as failed by the worker."""
    engine = open_database(settings.database_url)
    begin_run(engine, started_at=datetime.now(UTC), recipe="auto", encoder="e", split_seed=0)
    Worker(settings, retrain=python(ENDS, 0)).once()
    assert [run.status for run in runs(engine)] == ["failed"]
    engine.dispose()


def test_alarms_are_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """An open alarm is looked at and told to the webhook, once."""
    monkeypatch.setattr(webhook, "TIMEOUT_S", PATIENCE_S)
    engine = open_database(settings.database_url)
    raise_alarm(engine, AlarmKind.MODEL_FILE, "It is damaged.")
    with site(lambda request: page("")) as there:
        given = replace(settings, alarm_webhook=f"{there.url}/hook")
        for _ in range(2):
            assert Worker(given, retrain=python(ENDS, 0)).once()
        assert [seen.path for seen in there.seen] == ["/api/hook"]
    assert [alarm.kind for alarm in alarms(engine)] == [AlarmKind.MODEL_FILE]
    engine.dispose()


@pytest.mark.parametrize("error", [DatabaseError("The database is away. Start it."), ZeroDivisionError("no")])
def test_one_that_fails_holds_up_no_other(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """A job that fails is logged with its reason, the others are done, and `once` says that not all was."""

    def fails(*args: object) -> None:
        raise error

    monkeypatch.setattr(module, "check", fails)
    done = settings.model_path.with_name("done")
    assert not Worker(settings, retrain=python("import sys; open(sys.argv[1], 'w').close()", done)).once()
    assert done.exists()
    assert any("looking for problems" in message and "again at its next time" in message for message in caplog.messages)


def running(worker: Worker) -> threading.Thread:
    thread = threading.Thread(target=worker.run)
    thread.start()
    return thread


def now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each time of a schedule come at once."""
    monkeypatch.setattr(Schedule, "after", lambda self, now: now)


@pytest.mark.parametrize(("code", "heard"), [(LASTS, True), (DEAF, False)])
def test_a_stop_ends_a_training(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, heard: bool
) -> None:
    """A training is told to end and has its time to do so; one that does not listen is killed."""
    now_and_then(monkeypatch)
    monkeypatch.setattr(module, "GRACE_S", PATIENCE_S if heard else 0.1)
    worker = Worker(settings, retrain=python(code, tmp_path))
    thread = running(worker)
    until((tmp_path / "running").exists)
    worker.stop()
    thread.join(timeout=PATIENCE_S)
    assert not thread.is_alive()
    assert (tmp_path / "ended").exists() is heard


def test_jobs_come_again(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each job is done again and again, never twice at once, whatever happened to it before."""
    soon = timedelta(milliseconds=20)
    monkeypatch.setattr(Schedule, "after", lambda self, now: now + soon)
    done: list[str] = []
    at_once = threading.Lock()

    def retrain(self: Worker) -> bool:
        assert at_once.acquire(blocking=False)
        try:
            done.append("retrain")
            if len(done) == 1:
                raise ZeroDivisionError
        finally:
            at_once.release()
        time.sleep(0.01)
        return True

    monkeypatch.setattr(Worker, "_retrain", retrain)
    worker = Worker(settings, retrain=[])
    thread = running(worker)
    until(lambda: len(done) > 3)
    worker.stop()
    thread.join(timeout=PATIENCE_S)
    assert not thread.is_alive()


def test_what_was_missed_is_done_late(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A time that passed while the machine slept is not lost: the training begins as soon as it wakes."""
    usual, missed = Schedule.after, [timedelta(hours=5)]

    def slept(self: Schedule, now: datetime) -> datetime:
        return now - missed.pop() if missed else usual(self, now)

    monkeypatch.setattr(Schedule, "after", slept)
    code = "import sys; open(sys.argv[1], 'a').write('trained ')"
    worker = Worker(settings, retrain=python(code, tmp_path / "done"))
    thread = running(worker)
    until(lambda: (tmp_path / "done").exists() and (tmp_path / "done").read_text())
    worker.stop()
    thread.join(timeout=PATIENCE_S)
    assert not thread.is_alive()
    assert (tmp_path / "done").read_text() == "trained "


def test_a_clock_that_is_put_back_stops_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job whose time was far ahead is done at its next time by the new clock, and not once the old one is reached."""
    ahead, looks = timedelta(days=1), threading.Event()

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + ahead

    def after(self: Schedule, now: datetime) -> datetime:
        return now + timedelta(hours=1) if ahead else now

    def settle(self: Worker) -> bool:
        looks.set()
        return True

    done = threading.Event()
    monkeypatch.setattr("rlhf_loop.monitoring.worker.datetime", Clock)
    monkeypatch.setattr(Schedule, "after", after)
    monkeypatch.setattr(Worker, "_settle", settle)
    monkeypatch.setattr(Worker, "_check", lambda self: True)
    monkeypatch.setattr(Worker, "_retrain", lambda self: done.set() or True)
    worker = Worker(settings, retrain=[])
    thread = running(worker)
    assert looks.wait(PATIENCE_S)
    ahead = timedelta()
    assert done.wait(PATIENCE_S)
    worker.stop()
    thread.join(timeout=PATIENCE_S)
    assert not thread.is_alive()


def test_signals_are_given_back(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the worker runs SIGTERM stops it; afterwards whoever handled it before does so again."""
    from rlhf_loop.cli.operate import _stopped_by_signals

    before = signal.getsignal(signal.SIGTERM)
    stopped = threading.Event()
    with _stopped_by_signals(stopped.set):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped.wait(PATIENCE_S)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("calls", range(8))
def test_signals_may_come_amid_one_another(settings: Settings, calls: int) -> None:
    """Wherever the next one interrupts the handling of one, nobody waits for a lock that is held below it."""
    worker, left = Worker(settings, retrain=[]), calls

    def interrupted(frame: object, event: str, arg: object) -> None:
        nonlocal left
        if event == "call":
            left -= 1
            if left < 0:
                sys.setprofile(None)
                worker.stop()

    def stop() -> None:
        sys.setprofile(interrupted)
        worker.stop()
        sys.setprofile(None)

    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    thread.join(timeout=PATIENCE_S)
    assert not thread.is_alive()
    worker.run()
