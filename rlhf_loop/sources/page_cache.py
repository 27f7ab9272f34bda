"""A cache on disk of other sites' pages, so that a question asked again costs these sites nothing.

One SQLite file that many processes may read and write at once. It can always be deleted: a damaged page is fetched
anew, a damaged file is replaced, and where no file can be written every page is fetched.
"""

from __future__ import annotations

import logging
import sqlite3
import time
import zlib
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from rlhf_loop.errors import SourceError
from rlhf_loop.utils.sqlite import delete_files, make_room, prepare_cache

logger = logging.getLogger(__name__)

#: A page that cannot be fetched anew is still given at this age.
STALE_S = 7 * 24 * 3600.0
#: After a fetch that failed, older pages are given for this long without another try.
_PAUSE_S = 30.0
#: How far ahead of ours the clock may be that a page was kept by.
_SKEW_S = 60.0
#: Waiting longer than this for another process would cost more than fetching.
_BUSY_S = 0.5
_LARGEST_PAGE = 50 * 10**6
_SCHEMA = """
CREATE TABLE IF NOT EXISTS pages (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    retrieved REAL NOT NULL,
    checksum INTEGER NOT NULL,
    packed BLOB NOT NULL
)"""

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Page:
    """The bytes that a site sent, and when."""

    body: bytes
    retrieved_at: datetime


class PageCache:
    """Pages by their addresses, none older than `max_age_s` as long as they can be fetched; 0 keeps none at all.

    Safe to share between threads and across a fork: each use opens the file for itself.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_age_s: float,
        max_bytes: int = 100 * 10**6,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._max_age_s = max_age_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._pause_until = 0.0

    def page(self, address: str, fetch: Callable[[], bytes]) -> Page:
        """Return the page of this address: the kept one, or what `fetch` gets, which is kept from then on.

        `fetch` raises `SourceError` for what is not worth keeping. Where there is an older page, not older than a week
        or the age limit, that page is given instead, and the log says so.

        Raises:
            SourceError: `fetch` raised it, and there is no older page.
        """
        if self._max_age_s <= 0:
            return _page(fetch(), self._clock())
        key = sha256(address.encode("utf-8", "surrogatepass")).digest()
        kept = self._get(key)
        age = self._clock() - kept.retrieved_at.timestamp() if kept else 0.0
        if kept and (-_SKEW_S <= age <= self._max_age_s or time.monotonic() < self._pause_until):
            return kept
        try:
            body = fetch()
        except SourceError as error:
            if not kept:
                raise
            self._pause_until = time.monotonic() + _PAUSE_S
            logger.warning("A page from %s is used although it is old: %s", kept.retrieved_at.isoformat(), error)
            return kept
        self._pause_until = 0.0
        page = _page(body, self._clock())
        self._put(key, page)
        return page

    def _get(self, key: bytes) -> Page | None:
        page = self._attempt(lambda connection: _read(connection, key))
        return page if page and page.retrieved_at.timestamp() >= self._oldest() else None

    def _put(self, key: bytes, page: Page) -> None:
        self._attempt(lambda connection: _write(connection, key, page, self._oldest(), self._max_bytes))

    def _oldest(self) -> float:
        return self._clock() - max(STALE_S, self._max_age_s)

    def _attempt(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result | None:
        """Do the work; what goes wrong with the file is logged, and is nobody else's trouble."""
        try:
            with suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=_BUSY_S)) as connection:
                prepare_cache(connection, _SCHEMA)
                return work(connection)
        except sqlite3.OperationalError as error:
            # Locked for too long, disk full, no such folder: the next use may be luckier.
            logger.warning("The page cache %s cannot be used now: %s.", self._path, error)
        except sqlite3.DatabaseError as error:
            logger.warning("The page cache %s is damaged (%s); starting a new one.", self._path, error)
            delete_files(self._path)
        return None


def _read(connection: sqlite3.Connection, key: bytes) -> Page | None:
    row = connection.execute("SELECT retrieved, checksum, packed FROM pages WHERE key = ?", (key,)).fetchone()
    return _unpacked(key, *row) if row else None


def _write(connection: sqlite3.Connection, key: bytes, page: Page, oldest: float, max_bytes: int) -> None:
    packed, retrieved = zlib.compress(page.body), page.retrieved_at.timestamp()
    with connection:
        connection.execute("DELETE FROM pages WHERE retrieved < ?", (oldest,))
        connection.execute(
            "INSERT OR REPLACE INTO pages (key, retrieved, checksum, packed) VALUES (?, ?, ?, ?)",
            (key, retrieved, _checksum(key, retrieved, packed), packed),
        )
        make_room(connection, "pages", max_bytes=max_bytes)


def _page(body: bytes, retrieved: float) -> Page:
    return Page(body, datetime.fromtimestamp(retrieved, UTC))


def _unpacked(key: bytes, retrieved: object, checksum: object, packed: object) -> Page | None:
    if not (isinstance(retrieved, float) and isinstance(packed, bytes)):
        return None
    if _checksum(key, retrieved, packed) != checksum:
        return None
    return _page(zlib.decompressobj().decompress(packed, _LARGEST_PAGE), retrieved)


def _checksum(key: bytes, retrieved: float, packed: bytes) -> int:
    # Of all: where the file's index is damaged, a key may lead to the page of another address.
    return zlib.crc32(packed, zlib.crc32(key + repr(retrieved).encode()))
