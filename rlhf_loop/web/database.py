"""The ratings database as the routes use it: opened at the first request of a process, never before a fork."""

from __future__ import annotations

import os
import threading

from sqlalchemy.engine import Engine

from rlhf_loop.config import Settings
from rlhf_loop.db import ensure_schema, make_engine

#: Seconds that a request waits for a database that does not answer.
_PATIENCE_S = 5


class Database:
    """One engine a process. Safe to share between threads; light until its first use."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._process: int | None = None
        self._engine: Engine | None = None

    def engine(self) -> Engine:
        """Return the engine, its schema up to date.

        Raises:
            DatabaseError: the database cannot be reached; the routes answer 503, and the next request tries again.
        """
        with self._lock:
            if self._engine is None or self._process != os.getpid():
                engine = make_engine(self._settings.database_url, patience_s=_PATIENCE_S)
                ensure_schema(engine)
                self._engine, self._process = engine, os.getpid()
            return self._engine
