"""SQLite files of our own: a connection that outlives errors and forks, and what caches have in common."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

#: A parent process's connections, kept so that they are never closed here.
_INHERITED: list[sqlite3.Connection | None] = []

#: The lowest limit on variables among SQLite's builds is 999.
_VALUES_A_QUERY = 900
_USED_BYTES = """
SELECT (SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size)
     - (SELECT freelist_count FROM pragma_freelist_count) * (SELECT page_size FROM pragma_page_size)"""

_Result = TypeVar("_Result")
_Value = TypeVar("_Value")


def in_parts(values: Sequence[_Value]) -> Iterator[Sequence[_Value]]:
    """Yield the values in parts that one query can take, on any database."""
    return (values[start : start + _VALUES_A_QUERY] for start in range(0, len(values), _VALUES_A_QUERY))


def prepare_cache(connection: sqlite3.Connection, schema: str) -> None:
    """Set up a new connection to a cache: many processes may use it, a power cut costs at most its newest entries."""
    connection.text_factory = bytes  # a damaged row may hold text that cannot be decoded, which must not raise
    if connection.execute("PRAGMA journal_mode").fetchone() != (b"wal",):
        # Of several processes that open a new file at once one sets it; SQLite refuses the others without any waiting.
        with suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(schema)


def make_room(connection: sqlite3.Connection, table: str, *, max_bytes: int) -> None:
    """Delete the oldest fifth of a cache that has grown beyond `max_bytes`, so that not every write pays for room."""
    (used,) = connection.execute(_USED_BYTES).fetchone()
    if used > max_bytes:
        connection.execute(f"DELETE FROM {table} WHERE id <= (SELECT MIN(id) + (MAX(id) - MIN(id)) / 5 FROM {table})")


def delete_files(path: Path) -> None:
    """Delete a damaged cache with its log, as far as that is possible."""
    for suffix in ("", "-wal", "-shm"):
        with suppress(OSError):
            path.with_name(path.name + suffix).unlink()


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
