"""The worker's periodic jobs: retraining, checks and webhook, the live model's file, sums of days, retention, backups.

Each job has a thread of its own, so that one that fails or takes long holds up no other. Trainings are
processes of their own: they take hours and gigabytes at worst, and one that crashes must not take the rest along.
"""

from __future__ import annotations

import logging
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic, sleep

from rlhf_loop import registry
from rlhf_loop.config import Settings
from rlhf_loop.domain import AlarmKind
from rlhf_loop.errors import BackupError, BackupRunningError, RlhfLoopError
from rlhf_loop.monitoring.checks import check
from rlhf_loop.monitoring.crontab import Schedule
from rlhf_loop.monitoring.served_days import purge_old
from rlhf_loop.monitoring.webhook import deliver
from rlhf_loop.registry.runs import mark_dead_runs
from rlhf_loop.store.alarms import clear_alarm, raise_alarm
from rlhf_loop.store.backup import Index, back_up_into, holds_nothing, stored
from rlhf_loop.store.engine import ensure_schema, make_engine, scrub
from rlhf_loop.utils.translation import Message

logger = logging.getLogger(__name__)

#: Seconds that a training has to end after it was told to, before it is killed: its end should be in the log of runs.
GRACE_S = 20.0
_SETTLE_EVERY, _CHECK_EVERY, _PURGE_EVERY = timedelta(minutes=1), timedelta(minutes=5), timedelta(hours=1)
_LOOK_EVERY_S = 0.2
#: A clock that says so much less than at the last look was put back, and not only kept right.
_PUT_BACK = timedelta(seconds=10)
#: Of what a training prints, so much goes into the log; the report is at its end.
_SAID = 4_000
_ENDS = {
    0: (logging.INFO, "the new model is live, or nothing was due"),
    3: (logging.WARNING, "the new model waits or is refused: see rlhf-loop models list"),
    75: (logging.INFO, "another training is running"),
}


@dataclass(frozen=True, slots=True)
class _Job:
    name: str
    after: Callable[[datetime], datetime]
    work: Callable[[], bool]
    at_once: bool = True


class Worker:
    """Jobs that retrain when it is due by `settings.worker_schedule`, look for problems, and keep the live model.

    `retrain` is the command of a training, with exit codes as `rlhf-loop retrain` has them. `index` opens the index,
    where the settings want it in backups.
    """

    def __init__(self, settings: Settings, *, retrain: Sequence[str], index: Callable[[], Index] | None = None) -> None:
        """Nothing starts yet, and the database is not asked.

        Raises:
            ConfigError: a schedule cannot be read.
            DatabaseError: the URL of the database cannot be read.
        """
        self.schedule = schedule = Schedule(settings.worker_schedule)
        self._backups = backups = Schedule(settings.backup_schedule, setting="RLHF_BACKUP_SCHEDULE")
        self._settings, self._command, self._index = settings, tuple(retrain), index
        self._engine = make_engine(settings.database_url, lasting=settings)
        # Not an event: a signal's handler that sets one waits for ever for a lock that the code below it may hold.
        self._stopped = False
        self._jobs = (
            _Job("keeping the live model", lambda now: now + _SETTLE_EVERY, self._settle),
            _Job("retraining", schedule.after, self._retrain, at_once=False),
            _Job("looking for problems", lambda now: now + _CHECK_EVERY, self._check),
            _Job("summing up past days, and deleting what is old", lambda now: now + _PURGE_EVERY, self._purge),
            _Job("writing a backup", backups.after, self._back_up, at_once=False),
        )

    def run(self) -> None:
        """Do the jobs, each at its times and never twice at once, until `stop`."""
        threads = [threading.Thread(target=self._repeat, args=[job], name=job.name) for job in self._jobs]
        for thread in threads:
            thread.start()
        try:
            while not self._stopped:
                sleep(_LOOK_EVERY_S)
        finally:
            self._stopped = True
            for thread in threads:
                thread.join()
            self._engine.dispose()

    def once(self) -> bool:
        """Do each job now, once, one after the other; return whether all could be done."""
        try:
            return all([_do(job) for job in self._jobs if not self._stopped])
        finally:
            self._engine.dispose()

    def stop(self) -> None:
        """End soon: nothing more is begun, and a running training is stopped. May be called by a signal's handler."""
        self._stopped = True

    def _repeat(self, job: _Job) -> None:
        now = datetime.now(UTC)
        at = now if job.at_once else job.after(now)
        # By the clock, in short waits: what was missed while a laptop slept is done once, as soon as it wakes.
        while not self._stopped:
            sleep(min(max((at - now).total_seconds(), 0), _LOOK_EVERY_S))
            before, now = now, datetime.now(UTC)
            if now < before - _PUT_BACK:
                # Else it would stand still until the clock says again what it said before.
                at = min(at, job.after(now))
            if now >= at and not self._stopped:
                _do(job)
                now = datetime.now(UTC)
                at = job.after(now)

    def _settle(self) -> bool:
        ensure_schema(self._engine)
        registry.settle(self._engine, self._settings)
        mark_dead_runs(self._engine, self._settings)
        return True

    def _check(self) -> bool:
        ensure_schema(self._engine)
        check(self._engine, self._settings)
        deliver(self._engine, self._settings)
        return True

    def _purge(self) -> bool:
        ensure_schema(self._engine)
        of = self._settings
        gone = purge_old(
            self._engine,
            record_days=of.record_days,
            served_days=of.served_days,
            threshold=of.quality_threshold,
            actor="worker",
        )
        if of.record_days or of.served_days:
            # Also after an hour in which the log could not be emptied.
            scrub(self._engine)
        if gone.documents.answers:
            documents = gone.documents
            logger.info("%d documents of %d recorded rankings are deleted.", documents.answers, documents.questions)
        if gone.served:
            logger.info("The records of %d served questions are deleted.", gone.served)
        return True

    def _back_up(self) -> bool:
        """Write a backup, delete those that are too many; an alarm is open while the last one failed, or lacks some."""
        if (folder := self._settings.backup_path) is None:
            return True
        began = datetime.now(UTC)
        try:
            ensure_schema(self._engine)
            if holds_nothing(self._engine) and not stored(folder):
                return True
            with ExitStack() as closed:
                index = None
                if self._index is not None and self._settings.backup_index:
                    index = closed.enter_context(closing(self._index()))
                made = back_up_into(
                    self._engine, self._settings, folder, actor="worker", index=index, progress=self._go_on
                )
            if made.lacking:
                raise BackupError(f"The backup is there, but lacks what could not be read: {' '.join(made.lacking)}")
        except BackupRunningError as error:
            # Another worker's, or an operator's, who is told what becomes of it.
            logger.info("%s", error)
            return True
        except Exception as error:
            if not self._stopped:
                said = error.args[0] if isinstance(error, RlhfLoopError) else f"{type(error).__name__}: {error}"
                if not isinstance(error, BackupError):
                    # A store, a database or an index, which speaks of itself.
                    said = Message.joined(Message("No backup could be made; those of before are there."), said)
                with suppress(Exception):  # the first one is what is said
                    detail = {"folder": self._settings.shown()["backup_path"]}
                    raise_alarm(self._engine, AlarmKind.BACKUP, said, detail=detail)
            raise
        clear_alarm(self._engine, AlarmKind.BACKUP)
        logger.info("The backup of %s is whole: %s.", made.made_at.isoformat(timespec="seconds"), made.words)
        took, due = datetime.now(UTC) - began, self._backups.after(began)
        if took > self._backups.after(due) - due:
            logger.warning(
                "The backup took %d s, longer than from one time of RLHF_BACKUP_SCHEDULE to the next; what was due "
                "meanwhile is left out. Choose times that are further apart.",
                took.total_seconds(),
            )
        return True

    def _go_on(self, done: int, total: int) -> None:
        if self._stopped:
            raise BackupError("The worker was stopped before the backup was whole. The earlier ones are there.")

    def _retrain(self) -> bool:
        """Start a training, wait for its end, and log what it says; return whether it did what it should."""
        # The training is a process of its own, which knows nothing of the database that was here before.
        ensure_schema(self._engine)
        began = monotonic()
        # A session of its own: Ctrl-C reaches the worker, which stops the training in order.
        with subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        ) as process:
            said, stopped = self._waited_for(process)
        code = process.returncode
        level, words = _ENDS.get(code, (logging.ERROR, f"killed by signal {-code}" if code < 0 else "it failed"))
        if stopped:
            level, words = logging.WARNING, "it was stopped, with the worker"
        seconds = round(monotonic() - began, 1)
        values = {"exit_code": code, "seconds": seconds, "said": said.strip()[-_SAID:]}
        logger.log(level, "Retraining ended with exit code %d: %s.", code, words, extra=values)
        return code in _ENDS

    def _waited_for(self, process: subprocess.Popen[str]) -> tuple[str, bool]:
        """Return all that the process says, and whether it was stopped."""
        told_at: float | None = None
        while True:
            try:
                return process.communicate(timeout=_LOOK_EVERY_S)[0], told_at is not None
            except subprocess.TimeoutExpired:
                if self._stopped and told_at is None:
                    told_at = monotonic()
                    process.terminate()
                elif told_at is not None and monotonic() - told_at > GRACE_S:
                    process.kill()


def _do(job: _Job) -> bool:
    """Do a job; one that fails is logged, and done again at its next time."""
    try:
        return job.work()
    except RlhfLoopError as error:
        logger.error("The job %s could not be done: %s It is tried again at its next time.", job.name, error)
    except Exception:
        logger.exception("The job %s failed. It is tried again at its next time.", job.name)
    return False
