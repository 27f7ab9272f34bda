"""SQLite files of our own: a connection that outlives errors and forks, and a cache that may be deleted at any time."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar
from weakref import finalize

#: A parent process's connections, kept so that they are never closed here.
_INHERITED: list[sqlite3.Connection | None] = []

_Result = TypeVar("_Result")
_Value = TypeVar("_Value")

logger = logging.getLogger(__name__)

#: The lowest limit on variables among SQLite's builds is 999.
_VALUES_A_QUERY = 900
#: A query for the bytes of a file that are in use.
USED_BYTES = """
SELECT (SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size)
     - (SELECT freelist_count FROM pragma_freelist_count) * (SELECT page_size FROM pragma_page_size)"""


def in_parts(values: Sequence[_Value]) -> Iterator[Sequence[_Value]]:
    """Yield the values in parts that one query can take, on any database."""
    return (values[start : start + _VALUES_A_QUERY] for start in range(0, len(values), _VALUES_A_QUERY))


def file_id(path: Path | str) -> tuple[int, int] | None:
    """Return what tells a file from another of the same name, None if there is no such file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def empty_log(connection: sqlite3.Connection, path: Path) -> bool:
    """Fold the write-ahead log into the file and cut it to nothing; False, and a warning, while others read it."""
    try:
        [busy, *_] = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error:
        busy = 1
    if busy:
        logger.warning(
            "What was deleted may stand in %s-wal until nobody reads from it. Do it again then, or start what uses the "
            "file anew.",
            path,
        )
    return not busy


class SqliteConnection:
    """A connection that is opened when it is needed, anew after an error or a fork; one thread at a time uses it.

    The file has a write-ahead log, so that who reads does not wait for who writes. `prepare` gets each new connection
    first. `busy_s` is how long to wait for another process's lock.
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
            if self._connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                # Of several processes that open a new file one sets it; SQLite refuses the others without waiting.
                with suppress(sqlite3.OperationalError):
                    self._connection.execute("PRAGMA journal_mode = WAL")
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


class SqliteCache:
    """A table of rows by their keys, in a file of its own; the oldest rows make room for new ones.

    Many processes may read and write the file at once. A damaged one is replaced, and where none can be used, nothing
    is found and nothing kept; the log says so. It reads and writes by two connections, so that who reads does not wait
    with a writer for another process's lock. `columns` are those beside `key`, in SQL; `title` is for messages.
    """

    def __init__(self, path: Path, *, title: str, table: str, columns: str, max_bytes: int, busy_s: float) -> None:
        self._path = path
        self._title = title
        self._table = table
        self._max_bytes = max_bytes
        columns = f"id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, {columns}"
        prepare = partial(_prepare_cache, schema=f"CREATE TABLE IF NOT EXISTS {table} ({columns})")
        self._reader, self._writer = (SqliteConnection(path, prepare=prepare, busy_s=busy_s) for _ in range(2))
        # Not __del__: at the end of a program that runs when modules are gone, and complains on standard error.
        finalize(self, _close, self._reader, self._writer)

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        _close(self._reader, self._writer)

    def _write(self, work: Callable[[sqlite3.Connection], object]) -> None:
        """Do the work in a transaction, and delete the oldest rows if there are too many then."""

        def write(connection: sqlite3.Connection) -> None:
            with connection:
                work(connection)
                (used,) = connection.execute(USED_BYTES).fetchone()
                if used > self._max_bytes:
                    # A fifth at a time, so that a full cache does not pay for room at every write.
                    oldest = f"SELECT MIN(id) + (MAX(id) - MIN(id)) / 5 FROM {self._table}"
                    connection.execute(f"DELETE FROM {self._table} WHERE id <= ({oldest})")

        self._use(self._writer, write)

    def _use(self, connection: SqliteConnection, work: Callable[[sqlite3.Connection], _Result]) -> _Result | None:
        """Return the result of the work, None where the file cannot be used."""
        try:
            return connection.do(work)
        except sqlite3.OperationalError as error:
            # Locked for too long, disk full, no such folder: the next use may be luckier.
            logger.warning("The %s %s cannot be used now: %s.", self._title, self._path, error)
        except sqlite3.DatabaseError as error:
            logger.warning("The %s %s is damaged (%s); starting a new one.", self._title, self._path, error)
            self.close()
            for suffix in ("", "-wal", "-shm"):
                with suppress(OSError):
                    self._path.with_name(self._path.name + suffix).unlink()
        return None


def _close(*connections: SqliteConnection) -> None:
    for connection in connections:
        connection.close()


def _prepare_cache(connection: sqlite3.Connection, *, schema: str) -> None:
    connection.text_factory = bytes  # a damaged row, whose text is not valid, must not raise
    # A power cut may cost the newest rows, never the file.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(schema)
