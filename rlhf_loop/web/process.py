"""The ratings database as the routes use it: opened at the first request of a process, never before a fork."""

from __future__ import annotations

import logging
import os
import threading
from time import monotonic
from weakref import finalize

from sqlalchemy.engine import Engine

from rlhf_loop.accounts.users import has_active_admin
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
        engine = make_engine(self._settings.database_url, patience_s=_PATIENCE_S)
        ensure_schema(engine)
        # An application that somebody throws away leaves no connections open.
        finalize(self, engine.dispose).atexit = False
        self._engine, self._process, self._doubted = engine, os.getpid(), False
