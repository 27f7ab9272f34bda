"""arXiv, by its Atom API: abstracts of papers, one request every three seconds and not two at once.

All processes of this machine keep that pause together. The API: https://info.arxiv.org/help/api/user-manual.html. The
limit and the licence of what it gives: https://info.arxiv.org/help/api/tou.html.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

from filelock import BaseFileLock, FileLock, Timeout

from rlhf_loop.config import Settings
from rlhf_loop.domain import Passage
from rlhf_loop.errors import SourceError
from rlhf_loop.sources.excerpts import Document, Part, best_passages, search_words, without_markup
from rlhf_loop.sources.http import BUDGET_SHARE, HttpClient
from rlhf_loop.sources.page_cache import PageCache
from rlhf_loop.utils.files import write_whole
from rlhf_loop.utils.languages import language_named
from rlhf_loop.utils.text import one_line

#: Title and abstract are "descriptive metadata", which arXiv's terms put under CC0; the paper itself is not.
LICENCE = "CC0 1.0 (arXiv metadata; the paper has its own licence)"
#: Seconds between requests that arXiv asks for.
INTERVAL_S = 3.0
_WORDS = 5
_RESULTS = 10
_MOST_RESULTS = 50
_MAX_BYTES = 2 * 10**6
_URL = "RLHF_ARXIV_URL"
_MEDIA_TYPES = ("application/atom+xml", "application/xml", "text/xml")
_ATOM = "{http://www.w3.org/2005/Atom}"
_TOTAL = "{http://a9.com/-/spec/opensearch/1.1/}totalResults"
#: Both kinds of identifier: https://info.arxiv.org/help/arxiv_identifier.html.
_PAPER = re.compile(
    r"https?://(?:export\.)?arxiv\.org/abs/"
    r"([0-9]{4}\.[0-9]{4,5}(?:v[0-9]{1,4})?|[a-z-]{2,20}(?:\.[A-Z]{2})?/[0-9]{7}(?:v[0-9]{1,4})?)"
)
_ERROR_ID = "/api/errors"


class Throttle:
    """A throttle: one request at a time goes to `site`, each at least `interval_s` after the end of the one before.

    Next to the lock at `path` stands a file with the time of the last request. The system frees the lock of a process
    that dies. Time is the wall clock's, since other processes' monotonic clocks may not compare; whatever it and the
    file say, an interval later somebody is let in.
    """

    def __init__(self, path: Path, *, interval_s: float, site: str) -> None:
        self._lock_path = path
        self._stamp_path = path.with_suffix(".last")
        self._interval_s = interval_s
        self._site = site

    @contextmanager
    def turn(self, budget_s: float) -> Iterator[None]:
        """Wait for leave to send one request, at most `budget_s` seconds, and hold it in this block.

        Raises:
            SourceError: it would take longer, which is said at once where it is known; or the files cannot be written.
        """
        lock = self._acquired(budget_s)
        try:
            yield
        finally:
            # When in this block the request reached the site is not known: at the latest, now.
            with suppress(OSError):
                self._stamp()
            lock.release()

    def _acquired(self, budget_s: float) -> BaseFileLock:
        end = time.monotonic() + budget_s
        lock = FileLock(self._lock_path, timeout=budget_s)
        try:
            self._lock_path.parent.mkdir(parents=True, exist_ok=True)
            self._check(self._wait_s() or 0.0, end)
            lock.acquire()
            wait = self._wait_s()
            if wait is None:
                # From now on it tells: who comes an interval later is let in, however little time he has.
                self._stamp()
                wait = self._interval_s
            self._check(wait, end)
            time.sleep(wait)
            self._stamp()  # a crash from here on counts as a request, too
        except Timeout as error:
            raise self._taken(self._interval_s) from error
        except OSError as error:
            lock.release()
            raise SourceError(
                f"The pause between requests to {self._site} cannot be kept: {self._lock_path} cannot be written "
                f"({error.strerror}). Make its folder writable, or set RLHF_CACHE_DIR to one that is."
            ) from error
        except BaseException:
            lock.release()
            raise
        return lock

    def _check(self, wait: float, end: float) -> None:
        if wait and time.monotonic() + wait > end:
            raise self._taken(wait)

    def _taken(self, wait: float) -> SourceError:
        return SourceError(
            f"{self._site} may be asked only every {self._interval_s:g} s, and somebody just did. Its passages are "
            f"missing this time; ask again in {wait:.1f} s, or set a longer RLHF_SOURCE_DEADLINE_S.",
            retry_after_s=wait,
        )

    def _wait_s(self) -> float | None:
        """Return the rest of the pause; None where the file does not tell: damaged, or ahead of the clock."""
        try:
            ago = time.time() - float(self._stamp_path.read_text())
        except FileNotFoundError:
            return 0.0
        except ValueError:
            return None
        # This way round, as what is compared with "nan" is never true.
        return max(0.0, self._interval_s - ago) if ago >= 0 else None

    def _stamp(self) -> None:
        # In one step: others look without the lock, and a crash leaves the old one.
        write_whole(self._stamp_path, repr(time.time()).encode())


class ArxivSource:
    """A source of abstracts from arXiv, of papers with at least two of the question's words."""

    name = "arxiv"

    def __init__(self, settings: Settings, *, interval_s: float = INTERVAL_S) -> None:
        throttle = Throttle(settings.cache_dir / "arxiv.lock", interval_s=interval_s, site="arXiv")
        self._client = HttpClient(
            settings.arxiv_url, setting=_URL, contact=settings.contact, max_bytes=_MAX_BYTES, turn=throttle.turn
        )
        self._cache = PageCache(settings.cache_dir / "pages.db", max_age_s=settings.source_cache_hours * 3600)
        self._budget_s = BUDGET_SHARE * settings.source_deadline_s
        self._language = language_named(settings.language)

    def warm_up(self) -> None:
        """Prepare for the first request, without sending one."""
        self._client.warm_up()

    def search(self, query: str, *, limit: int) -> list[Passage]:
        """Return abstracts that fit the question.

        Raises:
            SourceError: arXiv cannot be asked now, as others of this machine just did, or its answer is not valid.
        """
        words = search_words(query, self._language, at_most=_WORDS)
        if not words or limit < 1:
            return []
        params = {
            "search_query": search_query(words),
            "start": "0",
            "max_results": str(min(max(limit, _RESULTS), _MOST_RESULTS)),
            "sortBy": "relevance",
            "sortOrder": "descending",
        }
        deadline = time.monotonic() + self._budget_s

        def fetch() -> bytes:
            budget_s = max(0.0, deadline - time.monotonic())
            body = self._client.get(params, budget_s=budget_s, media_types=_MEDIA_TYPES)
            self._feed(body)  # what is not a feed is not kept
            return body

        page = self._cache.page(self._client.address(params), fetch)
        documents = list(_papers(self._feed(page.body), page.retrieved_at))
        return best_passages(query, documents, self._language, limit=limit)

    def _feed(self, body: bytes) -> ElementTree.Element:
        parser = ElementTree.XMLParser(target=_NoDoctype())
        try:
            parser.feed(body)
            feed = parser.close()
        except (ElementTree.ParseError, ValueError, LookupError) as error:
            raise self._not_a_feed(str(error)) from error
        if feed.tag != f"{_ATOM}feed":
            raise self._not_a_feed(f"its root is {one_line(feed.tag[:80])!r}")
        entries = feed.findall(f"{_ATOM}entry")
        for entry in entries:
            if _ERROR_ID in _text(entry, "id") or _text(entry, "title") == "Error":
                raise SourceError(
                    f"arXiv refused the request: {_text(entry, 'summary')[:200]}. "
                    "Ask in other words, or try again later."
                )
        total = (feed.findtext(_TOTAL) or "0").strip()
        if not entries and total.strip("0"):
            # It happens under load; kept, it would hide the papers for a day.
            raise SourceError(
                f"arXiv found {one_line(total[:20])} papers and sent none of them. Its passages are missing this time; "
                "try again later."
            )
        return feed

    def _not_a_feed(self, reason: str) -> SourceError:
        return SourceError(
            f"{self._client.host} sent something that is not an Atom feed ({reason}). "
            f"Check that {_URL} is the address of arXiv's API, or try again later."
        )


def search_query(words: list[str]) -> str:
    """Return a query for papers with at least two of the words, or the only one.

    A second request, with fewer words, would have to wait three seconds. Words are letters and digits only.
    """
    terms = [f"all:{word}" for word in words]
    if len(terms) <= 2:
        return " AND ".join(terms)
    return " OR ".join(f"({one} AND {other})" for one, other in combinations(terms, 2))


class _NoDoctype(ElementTree.TreeBuilder):
    """A tree builder that refuses a document type: Atom has none, and only there can entities (bombs) be declared."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it has a document type")


def _papers(feed: ElementTree.Element, retrieved_at: datetime) -> Iterator[Document]:
    seen: set[str] = set()
    for entry in feed.iterfind(f"{_ATOM}entry"):
        paper = _PAPER.fullmatch(_text(entry, "id"))
        abstract, title = _text(entry, "summary"), _text(entry, "title")
        if not paper or not abstract or paper.group(1) in seen:
            continue
        seen.add(paper.group(1))
        yield Document(
            title=title[:500] or f"arXiv:{paper.group(1)}",
            parts=(Part("", abstract),),
            url=f"https://arxiv.org/abs/{paper.group(1)}",
            licence=LICENCE,
            retrieved_at=retrieved_at,
        )


def _text(entry: ElementTree.Element, name: str) -> str:
    found = entry.find(f"{_ATOM}{name}")
    return "" if found is None else " ".join(without_markup("".join(found.itertext())).split())
