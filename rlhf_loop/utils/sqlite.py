"""A connection to a SQLite file of our own that outlives errors and forks."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

#: A parent process's connections, kept so that they are never closed here.
_INHERITED: list[sqlite3.Connection | None] = []

_Result = TypeVar("_Result")


def file_id(path: Path | str) -> tuple[int, int] | None:
    """Return what tells a file from another of the same name, None if there is no such file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class SqliteConnection:
    """A connection that is opened when it is needed, anew after an error or a fork; one thread at a time uses it.

    `prepare` gets each new connection first. `busy_s` is how long to wait for another process's lock.
    """

    def __init__(self, path: Path, *, prepare: Callable[[sqlite3.Connection], None], busy_s: float) -> None:
        self._path = path
        self._prepare = prepare
        self._busy_s = busy_s
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._process = os.getpid()

    def do(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Return the result of the work; after an error of SQLite, which is passed on, the next use opens anew."""
        self._notice_fork()
        with self._lock:
            try:
                return work(self._open())
            except sqlite3.Error:
                self._disconnect()
                raise

    def close(self) -> None:
        """Close it, if it is open."""
        self._notice_fork()
        with self._lock:
            self._disconnect()

    def _notice_fork(self) -> None:
        """In a new process, open the file anew: neither the connection nor the lock's state may cross a fork."""
        if self._process != os.getpid():
            # Closing the inherited connection would disturb the parent's: https://sqlite.org/howtocorrupt.html, 2.6
            _INHERITED.append(self._connection)
            self._connection = None
            self._lock = threading.Lock()
            self._process = os.getpid()

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and file_id(self._path) != self._file:
            # Deleted or replaced: what is written into it now would be gone with the last process that has it open.
            self._disconnect()
        if self._connection is None:
            with suppress(OSError):  # SQLite will say that it cannot open the file
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._remove_orphans()
            self._connection = sqlite3.connect(self._path, timeout=self._busy_s, check_same_thread=False)
            self._prepare(self._connection)
            self._file = file_id(self._path)
        return self._connection

    def _remove_orphans(self) -> None:
        """Remove the log of a file that was deleted without it: SQLite would take it for the new file's own."""
        orphans = [self._path.with_name(self._path.name + suffix) for suffix in ("-wal", "-shm")]
        if self._path.exists() or not any(orphan.exists() for orphan in orphans):
            return
        from filelock import FileLock

        with FileLock(f"{self._path}.new"):
            if not self._path.exists():
                for orphan in orphans:
                    orphan.unlink(missing_ok=True)
                # Under the lock, so that nobody takes the log of the new file for an orphan.
                self._path.touch()

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None
