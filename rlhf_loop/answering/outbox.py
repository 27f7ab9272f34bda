"""What the database cannot take now, on disk until it can: bounded, in order, shared by the processes of a server.

A SQLite file of its own. An entry leaves it when it is in the database, and one that the database refuses for good
stays in it with the reason: nothing disappears without a trace.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlhf_loop.errors import OutboxError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    created_at TEXT NOT NULL,
    refused TEXT
);
CREATE TABLE IF NOT EXISTS mentions (
    interaction TEXT NOT NULL,
    entry INTEGER NOT NULL REFERENCES entries (id) ON DELETE CASCADE,
    PRIMARY KEY (interaction, entry)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS mentions_by_entry ON mentions (entry);"""
_BUSY_S = 5
#: Connections of a parent process, kept so that they are never closed here.
_INHERITED: list[sqlite3.Connection | None] = []


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that waits: its kind, and what has to be known to do it."""

    id: int
    kind: str
    body: Mapping[str, Any]


class Outbox:
    """Entries that wait, the oldest first. Safe to share between threads, processes, and across a fork.

    Nothing is written to disk before the first entry comes.
    """

    def __init__(self, path: Path, *, limit: int) -> None:
        self.path = path
        self._limit = limit
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._process = os.getpid()

    def put(self, kind: str, body: Mapping[str, Any], *, interactions: Sequence[str]) -> None:
        """Keep an entry that is about these interactions; it survives a power cut.

        Raises:
            OutboxError: there is no room, or the file cannot be written.
        """
        text = json.dumps(body, ensure_ascii=True)
        with self._transaction() as connection:
            (count,) = connection.execute("SELECT count(*) FROM entries").fetchone()
            if count >= self._limit:
                raise OutboxError(
                    f"The outbox {self.path} is full: {count:,} entries wait for the database. Bring the database "
                    "back, or raise RLHF_OUTBOX_MAX."
                )
            row = (kind, text, datetime.now(UTC).isoformat())
            entry = connection.execute("INSERT INTO entries (kind, body, created_at) VALUES (?, ?, ?)", row).lastrowid
            connection.executemany("INSERT INTO mentions VALUES (?, ?)", [(name, entry) for name in set(interactions)])

    def waiting(self, *, limit: int) -> list[Entry]:
        """Return the oldest entries that the database has not refused.

        Raises:
            OutboxError: the file cannot be read.
        """
        if not self.path.exists():
            return []
        with self._transaction("BEGIN") as connection:
            query = "SELECT id, kind, body FROM entries WHERE refused IS NULL ORDER BY id LIMIT ?"
            rows = connection.execute(query, (limit,)).fetchall()
        return [Entry(id, kind, json.loads(body)) for id, kind, body in rows]

    def mentions(self, interaction: str) -> bool:
        """Tell whether something about this interaction waits.

        Raises:
            OutboxError: the file cannot be read.
        """
        if not self.path.exists():
            return False
        with self._transaction("BEGIN") as connection:
            query = (
                "SELECT 1 FROM mentions JOIN entries ON entries.id = entry WHERE interaction = ? AND refused IS NULL"
            )
            return connection.execute(query, (interaction,)).fetchone() is not None

    def count(self) -> tuple[int, int]:
        """Return how many entries wait, and how many the database has refused.

        Raises:
            OutboxError: the file cannot be read.
        """
        if not self.path.exists():
            return 0, 0
        with self._transaction("BEGIN") as connection:
            query = "SELECT count(*) - count(refused), count(refused) FROM entries"
            waiting, refused = connection.execute(query).fetchone()
        return int(waiting), int(refused)

    def done(self, entry: Entry) -> None:
        """Forget an entry, now that it is in the database."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM entries WHERE id = ?", (entry.id,))

    def refuse(self, entry: Entry, reason: str) -> None:
        """Set an entry aside that the database does not take, and never will."""
        with self._transaction() as connection:
            connection.execute("UPDATE entries SET refused = ? WHERE id = ?", (reason, entry.id))

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            self._disconnect()

    @contextmanager
    def _transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[sqlite3.Connection]:
        self._notice_fork()
        with self._lock:
            try:
                connection = self._open()
                connection.execute(begin)
                try:
                    yield connection
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
            except (sqlite3.Error, OSError) as error:
                self._disconnect()
                raise OutboxError(
                    f"The outbox {self.path} cannot be used: {error}. Make its folder writable, or set "
                    "RLHF_OUTBOX_PATH; a damaged file may be moved away."
                ) from error

    def _notice_fork(self) -> None:
        if self._process != os.getpid():
            # Closing the inherited connection would disturb the parent's: https://sqlite.org/howtocorrupt.html, 2.6
            _INHERITED.append(self._connection)
            self._connection, self._lock, self._process = None, threading.Lock(), os.getpid()

    def _open(self) -> sqlite3.Connection:
        if self._connection is None or not self.path.exists():
            self._disconnect()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=_BUSY_S, check_same_thread=False, isolation_level=None)
            self._connection = connection
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # what is acknowledged survives a power cut
            connection.execute("PRAGMA foreign_keys = ON")
            connection.executescript(_SCHEMA)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None
