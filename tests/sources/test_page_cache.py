from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest
from forked_process import program
from patience import PATIENCE_S

from rlhf_loop.errors import SourceError
from rlhf_loop.sources.page_cache import PageCache

HOUR, DAY = 3600.0, 24 * 3600.0
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Clock:
    """Says what it is told."""

    def __init__(self) -> None:
        self.now = NOON.timestamp()

    def __call__(self) -> float:
        return self.now


class Pages:
    """Gives numbered pages, or fails."""

    def __init__(self) -> None:
        self.given = 0
        self.down = False

    def __call__(self) -> bytes:
        if self.down:
            raise SourceError("the site is down")
        self.given += 1
        return b"page %d" % self.given


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "folder" / "pages.db"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fetch() -> Pages:
    return Pages()


@pytest.fixture
def cache(path: Path, clock: Clock) -> PageCache:
    return PageCache(path, max_age_s=DAY, clock=clock)


def test_a_page_is_fetched_once(cache: PageCache, path: Path, clock: Clock, fetch: Pages) -> None:
    """Within the age limit the kept page comes back, in another process too, with the time it was fetched at."""
    cache.page("a", fetch)
    clock.now += DAY
    for each in (cache, PageCache(path, max_age_s=DAY, clock=clock)):
        page = each.page("a", fetch)
        assert (page.body, page.retrieved_at) == (b"page 1", NOON)
    assert cache.page("b", fetch).body == b"page 2"
    assert fetch.given == 2


def test_an_old_page_is_fetched_anew(cache: PageCache, clock: Clock, fetch: Pages) -> None:
    """Beyond the age limit the page is replaced."""
    cache.page("a", fetch)
    clock.now += DAY + 1
    page = cache.page("a", fetch)
    assert (page.body, page.retrieved_at.timestamp()) == (b"page 2", clock.now)
    assert cache.page("a", fetch).body == b"page 2"


def test_a_clock_that_went_back(cache: PageCache, clock: Clock, fetch: Pages) -> None:
    """A page from the future counts as old, except for the small differences that clocks have."""
    cache.page("a", fetch)
    clock.now -= 30
    assert cache.page("a", fetch).body == b"page 1"
    clock.now -= 300
    assert cache.page("a", fetch).body == b"page 2"


def test_an_old_page_is_better_than_none(
    cache: PageCache, clock: Clock, fetch: Pages, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the site is down, a page of up to a week is given, with its age; the log says so."""
    cache.page("a", fetch)
    clock.now += 6 * DAY
    fetch.down = True
    page = cache.page("a", fetch)
    assert (page.body, page.retrieved_at) == (b"page 1", NOON)
    assert "A page from 2026-01-01T12:00:00+00:00 is used although it is old: the site is down" in caplog.text
    fetch.down = False
    assert cache.page("a", fetch).body == b"page 1"
    assert cache.page("b", fetch).body == b"page 2"  # the site is back, and so is the wish for new pages
    assert cache.page("a", fetch).body == b"page 3"


@pytest.mark.parametrize(("hours", "days"), [(24, 7.1), (24 * 30, 30.1)])
def test_a_page_too_old_is_not_given(path: Path, clock: Clock, fetch: Pages, hours: float, days: float) -> None:
    """Beyond a week, or an age limit that is longer, the site's failure is the answer."""
    cache = PageCache(path, max_age_s=hours * HOUR, clock=clock)
    cache.page("a", fetch)
    clock.now += days * DAY
    fetch.down = True
    with pytest.raises(SourceError, match="the site is down"):
        cache.page("a", fetch)


def test_a_failure_is_not_kept(cache: PageCache, fetch: Pages) -> None:
    """What raises leaves nothing behind."""
    fetch.down = True
    with pytest.raises(SourceError):
        cache.page("a", fetch)
    fetch.down = False
    assert cache.page("a", fetch).body == b"page 1"


def test_no_cache_at_all(path: Path, fetch: Pages) -> None:
    """Zero hours: each page is fetched, and no file is made."""
    cache = PageCache(path, max_age_s=0)
    assert [cache.page("a", fetch).body for _ in range(2)] == [b"page 1", b"page 2"]
    assert not path.parent.exists()


@pytest.mark.parametrize("address", ["", "x" * 100_000, "日本", "\ud800", "a\0b"])
def test_any_address(cache: PageCache, fetch: Pages, address: str) -> None:
    """An address is any text."""
    assert cache.page(address, fetch) == cache.page(address, fetch)


@pytest.mark.parametrize("body", [b"", b"\0" * 10**6, os.urandom(10**5)])
def test_any_page(cache: PageCache, body: bytes) -> None:
    """A page is any bytes."""
    cache.page("a", lambda: body)
    assert cache.page("a", Pages()).body == body


def change(path: Path, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(sql, values).rowcount == 1


@pytest.mark.parametrize(
    "damage",
    [
        "packed = x'00'",
        "packed = CAST(x'6162ff' AS TEXT)",
        "packed = 7",
        "retrieved = 'soon'",
        "retrieved = retrieved - 1",
        "checksum = checksum + 1",
        "checksum = NULL",
    ],
)
def test_a_damaged_page_is_fetched_anew(cache: PageCache, path: Path, fetch: Pages, damage: str) -> None:
    """What does not fit its checksum counts as unknown, and is replaced."""
    cache.page("a", fetch)
    if "NULL" in damage:
        damage = "checksum = 0"
    change(path, f"UPDATE pages SET {damage}")
    assert cache.page("a", fetch).body == b"page 2"
    assert cache.page("a", fetch).body == b"page 2"


def test_the_page_of_another_address_is_not_given(cache: PageCache, path: Path, fetch: Pages) -> None:
    """An intact page under a wrong key counts as damaged."""
    cache.page("a", fetch)
    cache.page("b", fetch)
    with closing(sqlite3.connect(path)) as connection, connection:
        keys = [key for (key,) in connection.execute("SELECT key FROM pages ORDER BY id")]
    change(path, "UPDATE pages SET key = x'00' WHERE key = ?", keys[0])
    change(path, "UPDATE pages SET key = ? WHERE key = ?", keys[0], keys[1])
    assert cache.page("a", fetch).body == b"page 3"


@pytest.mark.parametrize("seed", range(10))
def test_flipped_bits_are_never_given(cache: PageCache, path: Path, seed: int) -> None:
    """Wherever in the file bits have flipped, a page is what the site sent."""
    bodies = {str(n): Random(n).randbytes(500 * n) for n in range(20)}
    fetchers: dict[str, Callable[[], bytes]] = {name: lambda body=body: body for name, body in bodies.items()}
    for name, body in bodies.items():
        assert cache.page(name, fetchers[name]).body == body
    cache.close()
    random, content = Random(seed), bytearray(path.read_bytes())
    for place in random.choices(range(100, len(content)), k=random.choice([1, 10, 100])):
        content[place] ^= 1 << random.randrange(8)
    path.write_bytes(content)
    for _ in range(2):
        for name, body in bodies.items():
            assert cache.page(name, fetchers[name]).body == body


def test_a_damaged_file_is_replaced(
    cache: PageCache, path: Path, fetch: Pages, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that is no database is logged and deleted, and the cache works again."""
    path.parent.mkdir(parents=True)
    path.write_bytes(b"this was never a database" * 1000)
    assert [cache.page("a", fetch).body for _ in range(2)] == [b"page 1"] * 2
    assert "is damaged" in caplog.text


@pytest.mark.parametrize("obstacle", ["parent is a file", "path is a folder"])
def test_without_a_place_to_write(
    path: Path, cache: PageCache, fetch: Pages, obstacle: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no file can be written each page is fetched, and a warning says so."""
    if obstacle == "parent is a file":
        path.parent.parent.mkdir()
        path.parent.write_text("in the way")
    else:
        path.mkdir(parents=True)
    assert [cache.page("a", fetch).body for _ in range(2)] == [b"page 1", b"page 2"]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert "cannot be used now" in caplog.text


def test_a_full_cache_drops_its_oldest_pages(path: Path, clock: Clock) -> None:
    """The file stays near its limit, and the newest pages are the ones that stay."""
    cache = PageCache(path, max_age_s=DAY, max_bytes=400_000, clock=clock)
    for n in range(200):
        cache.page(str(n), lambda: os.urandom(10_000))
    fetch = Pages()
    kept = [n for n in reversed(range(200)) if not cache.page(str(n), fetch).body.startswith(b"page ")]
    cache.close()
    assert path.stat().st_size < 1.3 * 400_000
    assert 20 < len(kept) < 45
    assert kept == list(range(199, 199 - len(kept), -1))


def test_pages_nobody_would_get_are_deleted(cache: PageCache, path: Path, clock: Clock, fetch: Pages) -> None:
    """What is too old even for a site that is down makes room."""
    cache.page("a", fetch)
    clock.now += 8 * DAY
    cache.page("b", fetch)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT COUNT(*) FROM pages").fetchone() == (1,)


def test_threads_and_processes_share_it(path: Path, tmp_path: Path) -> None:
    """Threads and processes may read and write one file at once; each gets the page of its address."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from rlhf_loop.sources.page_cache import PageCache\n"
        "cache = PageCache(Path(sys.argv[1]), max_age_s=1000)\n"
        "for n in range(50):\n"
        "    assert cache.page(str(n), lambda: b'%d' % n).body == b'%d' % n\n"
    )
    others = [program(code, path, folder=tmp_path) for _ in range(2)]
    cache = PageCache(path, max_age_s=1000)
    with ThreadPoolExecutor(8) as threads:
        bodies = list(threads.map(lambda n: cache.page(str(n), lambda: b"%d" % n).body, list(range(50)) * 4))
    assert bodies == [b"%d" % n for n in range(50)] * 4
    assert [other.wait(PATIENCE_S) for other in others] == [0, 0]
