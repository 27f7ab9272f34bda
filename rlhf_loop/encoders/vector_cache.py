"""Vector cache: vectors already computed, on disk, so that a second training embeds only new texts.

One SQLite file that many processes may read and write at once, and behind it, where the settings name one, a server
that several machines share (`shared_vectors.py`). The file can always be deleted: a damaged entry is computed anew, a
damaged file is replaced, and where no file can be written the encoder works without one.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rlhf_loop.encoders.runtime import DIMENSION, Vectors
from rlhf_loop.encoders.shared_vectors import SharedVectors
from rlhf_loop.utils.sqlite import SqliteCache, in_parts

_COLUMNS = "checksum INTEGER NOT NULL, data BLOB NOT NULL"
_BUSY_S = 10


class VectorCache(SqliteCache):
    """Keys (bytes) -> matrices of shape (n, dimension), float32. Safe to share between threads and across a fork.

    `shared` is the second level, None if there is none.
    """

    def __init__(self, path: Path, *, max_bytes: int = 2 * 10**9, shared: SharedVectors | None = None) -> None:
        self.shared = shared
        super().__init__(
            path, title="vector cache", table="vectors", columns=_COLUMNS, max_bytes=max_bytes, busy_s=_BUSY_S
        )

    def get(self, keys: Sequence[bytes], *, dimension: int = DIMENSION) -> dict[bytes, Vectors]:
        """Return the matrices, read-only, of those keys that are known and undamaged."""

        def find(connection: sqlite3.Connection) -> dict[bytes, Vectors]:
            found: dict[bytes, Vectors] = {}
            for part in in_parts(keys):
                marks = ",".join("?" * len(part))
                query = f"SELECT key, checksum, data FROM vectors WHERE key IN ({marks})"
                for key, checksum, data in connection.execute(query, part):
                    if _intact(key, checksum, data, 4 * dimension):
                        found[key] = np.frombuffer(data, dtype=np.float32).reshape(-1, dimension)
            return found

        return self._use(self._reader, find) or {}

    def fetch(self, keys: Sequence[bytes], *, dimension: int = DIMENSION, keep: bool = True) -> dict[bytes, Vectors]:
        """Return what the second level has of keys that this one does not; unless told otherwise, keep it here."""
        found = self.shared.get(keys, dimension=dimension) if self.shared else {}
        if found and keep:
            self._keep(found)
        return found

    def put(self, entries: Mapping[bytes, Vectors]) -> None:
        """Keep the matrices, each in place of an older one of the same key; the oldest entries make room."""
        self._keep(entries)
        if self.shared:
            self.shared.put(entries)

    def _keep(self, entries: Mapping[bytes, Vectors]) -> None:
        blobs = {key: np.ascontiguousarray(matrix, dtype=np.float32).tobytes() for key, matrix in entries.items()}
        rows = [(key, _checksum(key, blob), blob) for key, blob in blobs.items()]
        insert = "INSERT OR REPLACE INTO vectors (key, checksum, data) VALUES (?, ?, ?)"
        self._write(lambda connection: connection.executemany(insert, rows))


def _intact(key: object, checksum: object, data: object, row_bytes: int) -> bool:
    if not (isinstance(key, bytes) and isinstance(data, bytes)):
        return False
    return len(data) > 0 and len(data) % row_bytes == 0 and _checksum(key, data) == checksum


def _checksum(key: bytes, data: bytes) -> int:
    # Of both: where the file's index is damaged, a key may lead to the vectors of another text.
    return zlib.crc32(data, zlib.crc32(key))
