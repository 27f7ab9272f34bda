"""Vector cache: vectors already computed, on disk, so that a second training embeds only new texts.

One SQLite file that many processes may read and write at once. It can always be deleted: a damaged entry is computed
anew, a damaged file is replaced, and where no file can be written the encoder works without one.
"""

from __future__ import annotations

import logging
import sqlite3
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from rlhf_loop.encoders.runtime import DIMENSION, Vectors
from rlhf_loop.utils.sqlite import SqliteConnection, delete_files, in_parts, make_room, prepare_cache

logger = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS vectors (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    checksum INTEGER NOT NULL,
    data BLOB NOT NULL
)"""
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
        prepare = partial(prepare_cache, schema=_SCHEMA)
        self._reader, self._writer = (SqliteConnection(path, prepare=prepare, busy_s=_BUSY_S) for _ in range(2))

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
        """Do the work; what goes wrong with the file is logged and not raised: vectors can be computed anew."""
        try:
            return connection.do(work)
        except sqlite3.OperationalError as error:
            # Locked for too long, disk full, no such folder: the next use may be luckier.
            logger.warning("The vector cache %s cannot be used now: %s.", self._path, error)
        except sqlite3.DatabaseError as error:
            logger.warning("The vector cache %s is damaged (%s); starting a new one.", self._path, error)
            self.close()
            delete_files(self._path)
        return None


def _read(connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, Vectors]:
    found: dict[bytes, Vectors] = {}
    for part in in_parts(keys):
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
        make_room(connection, "vectors", max_bytes=max_bytes)
