"""Vectors already computed, on disk, so that a second training embeds only what is new.

One SQLite file that many processes may read and write at once. It can always be deleted: a damaged entry is computed
anew, a damaged file is replaced, and where no file can be written the encoder works without one.
"""

from __future__ import annotations

import logging
import sqlite3
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np

from rlhf_loop.encoders.runtime import DIMENSION, Vectors
from rlhf_loop.utils.sqlite import SqliteConnection

logger = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS vectors (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    checksum INTEGER NOT NULL,
    data BLOB NOT NULL
)"""
_USED_BYTES = """
SELECT (SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size)
     - (SELECT freelist_count FROM pragma_freelist_count) * (SELECT page_size FROM pragma_page_size)"""
#: A fifth at a time, so that a full cache does not pay for room at every write.
_MAKE_ROOM = "DELETE FROM vectors WHERE id <= (SELECT MIN(id) + (MAX(id) - MIN(id)) / 5 FROM vectors)"
#: Keys of one query: the lowest limit on variables among SQLite's builds is 999.
_KEYS_A_QUERY = 900
_BUSY_S = 10
_ROW_BYTES = 4 * DIMENSION

_Result = TypeVar("_Result")


class VectorCache:
    """Keys (bytes) -> matrices of shape (n, 384), float32. Safe to share between threads and across a fork.

    It reads and writes by two connections, so that who reads does not wait with a writer for another process's lock.
    """

    def __init__(self, path: Path, *, max_bytes: int = 2 * 10**9) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._reader, self._writer = (SqliteConnection(path, prepare=_prepare, busy_s=_BUSY_S) for _ in range(2))

    def __del__(self) -> None:
        self.close()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Vectors]:
        """Return the matrices, read-only, of those keys that are known and undamaged."""
        return self._attempt(self._reader, lambda connection: _read(connection, keys)) or {}

    def put(self, entries: Mapping[bytes, Vectors]) -> None:
        """Keep the matrices, each in place of an older one of the same key; the oldest entries make room."""
        blobs = {key: np.ascontiguousarray(matrix, dtype=np.float32).tobytes() for key, matrix in entries.items()}
        rows = [(key, _checksum(key, blob), blob) for key, blob in blobs.items()]
        self._attempt(self._writer, lambda connection: _write(connection, rows, self._max_bytes))

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self._reader.close()
        self._writer.close()

    def _attempt(self, connection: SqliteConnection, work: Callable[[sqlite3.Connection], _Result]) -> _Result | None:
        """Do the work; what goes wrong with the file is logged, and is nobody else's trouble."""
        try:
            return connection.do(work)
        except sqlite3.OperationalError as error:
            # Locked for too long, disk full, no such folder: the next use may be luckier.
            logger.warning("The vector cache %s cannot be used now: %s.", self._path, error)
        except sqlite3.DatabaseError as error:
            logger.warning("The vector cache %s is damaged (%s); starting a new one.", self._path, error)
            self.close()
            self._delete()
        return None

    def _delete(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):
                self._path.with_name(self._path.name + suffix).unlink()


def _prepare(connection: sqlite3.Connection) -> None:
    connection.text_factory = bytes  # of a damaged row, text that is none must not raise
    if connection.execute("PRAGMA journal_mode").fetchone() != (b"wal",):
        # Of several processes that open a new file at once one sets it; SQLite refuses the others without any waiting.
        with suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode = WAL")
    # A power cut may cost the newest entries, never the file.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(_SCHEMA)


def _read(connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, Vectors]:
    found: dict[bytes, Vectors] = {}
    for start in range(0, len(keys), _KEYS_A_QUERY):
        part = keys[start : start + _KEYS_A_QUERY]
        marks = ",".join("?" * len(part))
        query = f"SELECT key, checksum, data FROM vectors WHERE key IN ({marks})"
        for key, checksum, data in connection.execute(query, part):
            if _intact(key, checksum, data):
                found[key] = np.frombuffer(data, dtype=np.float32).reshape(-1, DIMENSION)
    return found


def _intact(key: object, checksum: object, data: object) -> bool:
    if not (isinstance(key, bytes) and isinstance(data, bytes)):
        return False
    return len(data) > 0 and len(data) % _ROW_BYTES == 0 and _checksum(key, data) == checksum


def _checksum(key: bytes, data: bytes) -> int:
    # Of both: where the file's index is damaged, a key may lead to the vectors of another text.
    return zlib.crc32(data, zlib.crc32(key))


def _write(connection: sqlite3.Connection, rows: Sequence[tuple[bytes, int, bytes]], max_bytes: int) -> None:
    with connection:
        connection.executemany("INSERT OR REPLACE INTO vectors (key, checksum, data) VALUES (?, ?, ?)", rows)
        (used,) = connection.execute(_USED_BYTES).fetchone()
        if used > max_bytes:
            connection.execute(_MAKE_ROOM)
