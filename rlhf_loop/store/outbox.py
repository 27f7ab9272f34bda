"""Outbox on disk for what the database cannot take now: bounded, in order, shared by the processes of a server.

It is a SQLite file of its own. An entry leaves it when it is in the database; one that the database refuses for good
stays in it with the reason.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rlhf_loop.config import Settings
from rlhf_loop.errors import OutboxError
from rlhf_loop.utils.sqlite import USED_BYTES, SqliteConnection, empty_log
from rlhf_loop.utils.text import unstorable

logger = logging.getLogger(__name__)

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
CREATE INDEX IF NOT EXISTS mentions_by_entry ON mentions (entry);
CREATE INDEX IF NOT EXISTS entries_waiting ON entries (id) WHERE refused IS NULL;"""
_INSERT = "INSERT INTO entries (kind, body, created_at, refused) VALUES (?, ?, ?, ?)"
_BUSY_S = 5
#: Bytes of a file that takes no more entries, and characters of those that are read at a time.
_MOST_BYTES, _MOST_CHARS = 2**30, 2**23

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry that waits: its kind, and the data to write."""

    id: int
    kind: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EntryCopy:
    """An entry with what it is about; `refused` says why the database has not taken it, None while it waits."""

    kind: str
    body: Mapping[str, Any]
    interactions: Sequence[str]
    refused: str | None = None


class Outbox:
    """Entries that wait, the oldest first. Safe to share between threads, processes, and across a fork.

    Nothing is written to disk before the first entry comes. Where it is not `durable`, nobody waits for the disk: what
    is acknowledged survives the process, but perhaps no power cut.
    """

    def __init__(self, path: Path, *, limit: int, durable: bool = True) -> None:
        self.path = path
        self._limit = limit
        self._connection = SqliteConnection(path, prepare=partial(_prepare, durable=durable), busy_s=_BUSY_S)

    def put(self, kind: str, body: Mapping[str, Any], *, interactions: Sequence[str]) -> None:
        """Keep an entry that is about these interactions.

        Raises:
            OutboxError: there is no room, or the file cannot be written.
        """
        row = (kind, _written(body), datetime.now(UTC).isoformat(), None)

        def insert(connection: sqlite3.Connection) -> None:
            (count,) = connection.execute("SELECT count(*) FROM entries WHERE refused IS NULL").fetchone()
            (used,) = connection.execute(USED_BYTES).fetchone()
            if count >= self._limit or used > _MOST_BYTES:
                raise OutboxError(
                    f"The outbox {self.path} is full: {count:,} entries wait for the database, in {used:,} bytes. "
                    "Bring the database back, or raise RLHF_OUTBOX_MAX."
                )
            entry = connection.execute(_INSERT, row).lastrowid
            connection.executemany("INSERT INTO mentions VALUES (?, ?)", [(name, entry) for name in set(interactions)])

        self._do(insert)

    def waiting(self, *, limit: int) -> list[Entry]:
        """Return the oldest entries that the database has not refused, fewer where they are large.

        Raises:
            OutboxError: the file cannot be read.
        """
        query = "SELECT id, kind, body FROM entries WHERE refused IS NULL ORDER BY id LIMIT ?"
        return [Entry(id, kind, json.loads(body)) for id, kind, body in self._part(query, limit)]

    def mentions(self, interaction: str) -> bool:
        """Tell whether something about this interaction waits.

        Raises:
            OutboxError: the file cannot be read.
        """
        query = "SELECT 1 FROM mentions JOIN entries ON entries.id = entry WHERE interaction = ? AND refused IS NULL"
        return bool(self._rows(query, interaction))

    def count(self) -> tuple[int, int]:
        """Return how many entries wait, and how many the database has refused.

        Raises:
            OutboxError: the file cannot be read.
        """
        rows = self._rows("SELECT count(*) - count(refused), count(refused) FROM entries")
        return rows[0] if rows else (0, 0)

    def oldest(self) -> datetime | None:
        """Return since when the oldest entry has been waiting, None if none does.

        Raises:
            OutboxError: the file cannot be read.
        """
        rows = self._rows("SELECT created_at FROM entries WHERE refused IS NULL ORDER BY id LIMIT 1")
        return datetime.fromisoformat(rows[0][0]) if rows else None

    def all(self) -> Iterator[EntryCopy]:
        """Yield what waits and what the database has refused, with what each entry is about, the oldest first.

        They are read part after part: of what comes or goes meanwhile, some is among it.

        Raises:
            OutboxError: the file cannot be read.
        """
        about = "(SELECT json_group_array(interaction) FROM mentions WHERE entry = entries.id)"
        for _, kind, body, refused, names in self._parts(f"SELECT id, kind, body, refused, {about} FROM entries"):
            yield EntryCopy(kind, json.loads(body), json.loads(names), refused)

    def exchange(self, *, add: Sequence[EntryCopy], drop: Sequence[EntryCopy] = ()) -> None:
        """Drop entries, and add others, all or none.

        Raises:
            OutboxError: the file cannot be written.
        """
        now, gone = datetime.now(UTC).isoformat(), {(each.kind, _written(each.body)) for each in drop}

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM entries WHERE kind = ? AND body = ?", [*gone])
            for each in add:
                row = each.kind, _written(each.body), now, each.refused
                entry = connection.execute(_INSERT, row).lastrowid
                names = [(name, entry) for name in set(each.interactions)]
                connection.executemany("INSERT INTO mentions VALUES (?, ?)", names)

        if add or drop:
            self._do(work)

    def done(self, *entries: Entry) -> None:
        """Forget entries, now that they are in the database."""
        gone = [(entry.id,) for entry in entries]
        self._do(lambda connection: connection.executemany("DELETE FROM entries WHERE id = ?", gone))

    def scrub(self) -> bool:
        """Have the file's write-ahead log hold nothing of what has left; return False if it has to stay."""
        return not self.path.exists() or self._connection.do(lambda connection: empty_log(connection, self.path))

    def find(self, wanted: Callable[[Entry], bool]) -> list[Entry]:
        """Return the entries that are wanted, also of those that the database has refused.

        Raises:
            OutboxError: the file cannot be read.
        """
        rows = self._parts("SELECT id, kind, body FROM entries")
        return list(filter(wanted, (Entry(id, kind, json.loads(body)) for id, kind, body in rows)))

    def refuse(self, entry: Entry, reason: str) -> None:
        """Set an entry aside that the database does not take, and never will.

        Of these, too, only so many are kept: the oldest go into the log.
        """

        def update(connection: sqlite3.Connection) -> list[tuple[int, str, str]]:
            connection.execute("UPDATE entries SET refused = ? WHERE id = ?", (reason, entry.id))
            oldest = (
                "SELECT id, refused, body FROM entries WHERE refused IS NOT NULL ORDER BY id DESC LIMIT -1 OFFSET ?"
            )
            gone = connection.execute(oldest, (self._limit,)).fetchall()
            connection.executemany("DELETE FROM entries WHERE id = ?", [(id,) for id, _, _ in gone])
            return gone

        for _, why, body in self._do(update):
            logger.error("The outbox %s lets go of an entry that was refused (%s): %s", self.path, why, body)

    def _rows(self, query: str, *values: object) -> list[Any]:
        """Return what the query finds; nothing where there is no file yet, and none is made."""
        if not self.path.exists():
            return []
        return self._do(lambda connection: connection.execute(query, values).fetchall(), begin="BEGIN")

    def _part(self, query: str, *values: object) -> list[Any]:
        """Return the first rows of id, kind, body and whatever else; fewer where they are large."""

        def read(connection: sqlite3.Connection) -> list[Any]:
            found, size = list[Any](), 0
            for row in connection.execute(query, values):
                found.append(row)
                if (size := size + len(row[2])) > _MOST_CHARS:
                    break
            return found

        return self._do(read, begin="BEGIN") if self.path.exists() else []

    def _parts(self, query: str) -> Iterator[Any]:
        """Yield all such rows by their ids, and hold a part of them at a time."""
        last = 0
        while part := self._part(f"{query} WHERE id > ? ORDER BY id", last):
            yield from part
            last = part[-1][0]

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self._connection.close()

    def _do(self, work: Callable[[sqlite3.Connection], _Result], *, begin: str = "BEGIN IMMEDIATE") -> _Result:
        """Do the work in a transaction."""

        def transaction(connection: sqlite3.Connection) -> _Result:
            connection.execute(begin)
            try:
                result = work(connection)
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
            return result

        try:
            return self._connection.do(transaction)
        except sqlite3.Error as error:
            if "full" in str(error):
                advice = "Free space on its disk."
            else:
                advice = (
                    "Make its folder writable, or set RLHF_OUTBOX_PATH; a damaged file may be moved away, together "
                    "with those beside it that end in -wal and -shm."
                )
            raise OutboxError(f"The outbox {self.path} cannot be used: {error}. {advice}") from error


def outboxes(settings: Settings) -> tuple[Outbox, Outbox]:
    """Return the outbox for answers and ratings, and that for rankings.

    It is one of their own, so that however many they are, a rating has its place.
    """
    path, most = settings.outbox_path, settings.outbox_max
    return Outbox(path, limit=most), Outbox(path.with_stem(f"{path.stem}_rankings"), limit=most, durable=False)


def _written(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, ensure_ascii=False)
    # Half of a character can only be written as an escape.
    return text if unstorable(text) is None else json.dumps(body, ensure_ascii=True)


def _prepare(connection: sqlite3.Connection, *, durable: bool) -> None:
    connection.isolation_level = None  # transactions are begun above
    # In full, what is acknowledged survives a power cut.
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")
    connection.executescript(_SCHEMA)
