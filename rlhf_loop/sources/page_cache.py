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
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from rlhf_loop.errors import SourceError
from rlhf_loop.utils.sqlite import SqliteCache

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
_COLUMNS = "retrieved REAL NOT NULL, checksum INTEGER NOT NULL, packed BLOB NOT NULL"


@dataclass(frozen=True, slots=True)
class Page:
    """The bytes that a site sent, and when."""

    body: bytes
    retrieved_at: datetime


class PageCache(SqliteCache):
    """Pages by their addresses, none older than `max_age_s` as long as they can be fetched; 0 keeps none at all.

    Safe to share between threads and across a fork.
    """

    def __init__(
        self, path: Path, *, max_age_s: float, max_bytes: int = 100 * 10**6, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(path, title="page cache", table="pages", columns=_COLUMNS, max_bytes=max_bytes, busy_s=_BUSY_S)
        self._max_age_s = max_age_s
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
        select = "SELECT retrieved, checksum, packed FROM pages WHERE key = ?"
        row = self._use(self._reader, lambda connection: connection.execute(select, (key,)).fetchone())
        page = _unpacked(key, *row) if row else None
        return page if page and page.retrieved_at.timestamp() >= self._oldest() else None

    def _put(self, key: bytes, page: Page) -> None:
        packed, retrieved, oldest = zlib.compress(page.body), page.retrieved_at.timestamp(), self._oldest()
        insert = "INSERT OR REPLACE INTO pages (key, retrieved, checksum, packed) VALUES (?, ?, ?, ?)"

        def replace(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM pages WHERE retrieved < ?", (oldest,))
            connection.execute(insert, (key, retrieved, _checksum(key, retrieved, packed), packed))

        self._write(replace)

    def _oldest(self) -> float:
        return self._clock() - max(STALE_S, self._max_age_s)


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
