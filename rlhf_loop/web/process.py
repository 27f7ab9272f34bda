"""State of one process: the database, opened with its first request and never before a fork, and the warm-up.

The warm-up loads what answers need before the first question comes, in a thread of its own.
"""

from __future__ import annotations

import logging
import os
import threading
from time import monotonic, perf_counter
from weakref import finalize

from sqlalchemy.engine import Engine

from rlhf_loop.accounts.users import has_active_admin
from rlhf_loop.answering import AnswerService
from rlhf_loop.config import Settings
from rlhf_loop.errors import DatabaseError
from rlhf_loop.store.engine import describe, ensure_schema, make_engine, reading

logger = logging.getLogger(__name__)

#: Seconds that a request waits for a database that does not answer.
_PATIENCE_S = 5


class Database:
    """One engine a process. Safe to share between threads; light until its first use."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._process: int | None = None
        self._engine: Engine | None = None
        self._doubted = False
        self._failed_at = 0.0
        self._failure = ""

    def engine(self) -> Engine:
        """Return the engine, its schema up to date.

        Raises:
            DatabaseError: the database cannot be reached; the routes answer 503, and the next request tries again.
        """
        came = monotonic()
        with self._lock:
            opened = self._engine is not None and self._process == os.getpid()
            if not opened or self._doubted:
                if self._failed_at > came:
                    # Somebody tried while this one stood in line. Else each would wait in turn.
                    raise DatabaseError(self._failure)
                try:
                    if opened:
                        self._check_again()
                    else:
                        self._open()
                except DatabaseError as error:
                    self._failed_at, self._failure = monotonic(), str(error)
                    raise
            assert self._engine is not None
            return self._engine

    def doubt(self) -> None:
        """Have the schema looked at before the next use: after an error, what comes back may be another database."""
        self._doubted = True

    def _check_again(self) -> None:
        assert self._engine is not None
        # Before the look, so that a doubt that arises meanwhile is not lost.
        self._doubted = False
        try:
            ensure_schema(self._engine)
            with reading(self._engine) as connection:
                somebody = has_active_admin(connection)
        except DatabaseError:
            self._doubted = True
            raise
        if not somebody:
            logger.warning(
                "After an error, the database %s has no admin: it is new, or another one than before. If people are "
                "missing, start `rlhf-loop serve` again for a first admin's link, or add one: rlhf-loop users add NAME "
                "--role admin",
                describe(self._engine),
            )

    def _open(self) -> None:
        engine = make_engine(self._settings.database_url, patience_s=_PATIENCE_S, lasting=self._settings)
        ensure_schema(engine)
        # An application that somebody throws away leaves no connections open.
        finalize(self, engine.dispose).atexit = False
        self._engine, self._process, self._doubted = engine, os.getpid(), False


class WarmUp:
    """Loads the encoder, the model and the index of a service, while the process already answers."""

    def __init__(self, service: AnswerService) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._process: int | None = None

    def start(self) -> None:
        """Begin, unless this process has begun already."""
        with self._lock:
            # By process: a fork inherits the note that the parent began, but not the thread.
            if self._process == os.getpid():
                return
            self._process = os.getpid()
        threading.Thread(target=self._run, name="rlhf-warm-up", daemon=True).start()

    def _run(self) -> None:
        started = perf_counter()
        try:
            self._service.warm_up()
        except Exception:
            # Not fatal: each answer tries again by itself and says what is missing.
            logger.exception("Warming up failed; the first answers will try again.")
            return
        readiness = self._service.readiness()
        logger.info(
            "Warm after %.1f s" if readiness.ready else "Warmed up for %.1f s, but not all is ready",
            perf_counter() - started,
            extra={"ready": readiness.ready, "checks": dict(readiness.checks)},
        )
