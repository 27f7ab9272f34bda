"""The ratings database as the routes use it: opened at the first request of a process, never before a fork."""

from __future__ import annotations

import os
import threading
from time import monotonic
from weakref import finalize

from sqlalchemy.engine import Engine

from rlhf_loop.config import Settings
from rlhf_loop.db import ensure_schema, make_engine
from rlhf_loop.errors import DatabaseError

#: Seconds that a request waits for a database that does not answer.
_PATIENCE_S = 5


class Database:
    """One engine a process. Safe to share between threads; light until its first use."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._process: int | None = None
        self._engine: Engine | None = None
        self._failed_at = 0.0
        self._failure = ""

    def engine(self) -> Engine:
        """Return the engine, its schema up to date.

        Raises:
            DatabaseError: the database cannot be reached; the routes answer 503, and the next request tries again.
        """
        came = monotonic()
        with self._lock:
            if self._engine is None or self._process != os.getpid():
                if self._failed_at > came:
                    # Somebody tried while this one stood in line. Else each would wait in turn.
                    raise DatabaseError(self._failure)
                self._open()
            assert self._engine is not None
            return self._engine

    def _open(self) -> None:
        engine = make_engine(self._settings.database_url, patience_s=_PATIENCE_S)
        try:
            ensure_schema(engine)
        except DatabaseError as error:
            self._failed_at, self._failure = monotonic(), str(error)
            raise
        # An application that somebody throws away leaves no connections open.
        finalize(self, engine.dispose).atexit = False
        self._engine, self._process = engine, os.getpid()
