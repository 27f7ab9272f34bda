"""Wikipedia, or any wiki of MediaWiki with the TextExtracts extension, by its action API.

One search gives pages with their addresses, and the wiki's licence; then the plain text of the best three comes one by
one, since TextExtracts gives whole pages only singly, and Wikimedia asks for one request after the other:
https://www.mediawiki.org/wiki/API:Etiquette, https://www.mediawiki.org/wiki/Extension:TextExtracts.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from rlhf_loop.config import Settings
from rlhf_loop.domain import Passage
from rlhf_loop.errors import ConfigError, SourceError
from rlhf_loop.sources.excerpts import Document, Part, best_passages, longest_first, search_words, without_markup
from rlhf_loop.sources.http import BUDGET_SHARE, HttpClient
from rlhf_loop.sources.page_cache import PageCache
from rlhf_loop.utils.languages import language_named
from rlhf_loop.utils.text import one_line, web_address

logger = logging.getLogger(__name__)

#: Pages whose text is read.
PAGES = 3
_WORDS = 12
#: Characters of a page that are looked at; longer ones are mostly lists.
_TEXT_CHARS = 200_000
_URL = "RLHF_WIKIPEDIA_URL"
_LANGUAGE = re.compile(r"[a-z]{2,12}(-[a-z]{2,12}){0,3}")
_HEADING = re.compile(r"^(={2,6})[ \t]*(.+?)[ \t]*\1[ \t]*$", re.MULTILINE)
#: Sections without sentences about the subject.
_LISTS = frozenset(
    {"bibliography", "citations", "external links", "further reading", "notes", "references", "see also", "sources"}
)
#: Errors that pass by themselves: https://www.mediawiki.org/wiki/API:Errors_and_warnings.
_PASSING = frozenset({"maxlag", "ratelimited"})
_FIXED = {"action": "query", "format": "json", "formatversion": "2"}


class WikipediaSource:
    """A source of the sections of a wiki's pages that have most of the question's words.

    `maxlag` is how many seconds a wiki's databases may lag behind before it may refuse us, so that its writers come
    first: https://www.mediawiki.org/wiki/Manual:Maxlag_parameter.
    """

    name = "wikipedia"

    def __init__(self, settings: Settings, *, maxlag: int = 5) -> None:
        self._client = HttpClient(api_address(settings), setting=_URL, contact=settings.contact)
        self._cache = PageCache(settings.cache_dir / "pages.db", max_age_s=settings.source_cache_hours * 3600)
        self._budget_s = BUDGET_SHARE * settings.source_deadline_s
        self._language = language_named(settings.language)
        self._fixed = {**_FIXED, "maxlag": str(maxlag)}

    def warm_up(self) -> None:
        """Prepare for the first request, without sending one."""
        self._client.warm_up()

    def search(self, query: str, *, limit: int) -> list[Passage]:
        """Return the sections that fit the question, of up to three pages.

        Raises:
            SourceError: the wiki cannot be asked now, or its answer is not valid.
        """
        words = search_words(query, self._language, at_most=_WORDS)
        if not words or limit < 1:
            return []
        deadline = time.monotonic() + self._budget_s
        found = self._find(words, deadline)
        documents: list[Document] = []
        for hit in found.hits:
            try:
                documents.append(self._document(hit, found.licence, deadline))
            except SourceError as error:
                if not documents:
                    raise
                logger.warning("Only %d of %d pages were read: %s", len(documents), len(found.hits), error)
                break
        return best_passages(query, documents, self._language, limit=limit)

    def _find(self, words: list[str], deadline: float) -> _SearchResult:
        """Search for all words; where that finds little, for any of them; where it finds nothing, for fewer."""
        hits: dict[int, _Hit] = {}
        licence: str | None = None
        for number, text in enumerate(_attempts(words)):
            # Only the second one makes more of a few.
            if len(hits) >= PAGES or (hits and number > 1):
                break
            try:
                found = self._search(text, deadline)
            except SourceError as error:
                if not hits:
                    raise
                logger.warning("Only the first pages found are used: %s", error)
                break
            for hit in found.hits:
                hits.setdefault(hit.page_id, hit)
            licence = licence or found.licence
        return _SearchResult(tuple(hits.values())[:PAGES], licence or usual_licence(self._client.host))

    def _search(self, text: str, deadline: float) -> _SearchResult:
        answer, _ = self._ask(
            {
                "generator": "search",
                "gsrsearch": text,
                "gsrwhat": "text",
                "gsrnamespace": "0",
                "gsrlimit": str(2 * PAGES),
                "prop": "info|pageprops",
                "inprop": "url",
                "ppprop": "disambiguation",
                "redirects": "1",
                "meta": "siteinfo",
                "siprop": "rightsinfo",
            },
            deadline,
        )
        pages = [page for page in _pages(answer) if type(page.get("pageid")) is int and _title(page)]
        pages.sort(key=lambda page: page["index"] if type(page.get("index")) is int else len(pages))
        hits = [_Hit(page["pageid"], _title(page), self._page_url(page)) for page in pages if not _disambiguates(page)]
        rights = _query(answer).get("rightsinfo")
        return _SearchResult(tuple(hits), _licence(rights) if isinstance(rights, dict) else None)

    def _document(self, hit: _Hit, licence: str | None, deadline: float) -> Document:
        wanted = {
            "prop": "extracts",
            "pageids": str(hit.page_id),
            "explaintext": "1",
            "exsectionformat": "wiki",
            "exlimit": "1",
        }
        answer, retrieved_at = self._ask(wanted, deadline)
        parts = tuple(_parts(formulas_once("".join(_extracts(answer)[:1]))[:_TEXT_CHARS]))
        return Document(title=hit.title, parts=parts, url=hit.url, licence=licence, retrieved_at=retrieved_at)

    def _ask(self, params: Mapping[str, str], deadline: float) -> tuple[dict[str, Any], datetime]:
        """Return the API's answer to these parameters, and when it came."""
        params = {**self._fixed, **params}

        def fetch() -> bytes:
            budget_s = deadline - time.monotonic()
            body = self._client.get(
                params, budget_s=max(0.0, budget_s), media_types=("application/json",), is_busy=_is_busy
            )
            self._checked(body, params)
            return body

        page = self._cache.page(self._client.address(params), fetch)
        return self._checked(page.body, params), page.retrieved_at

    def _checked(self, body: bytes, params: Mapping[str, str]) -> dict[str, Any]:
        """Return the answer if it is a valid one; checked before it is kept, too."""
        answer = _json(body)
        if not isinstance(answer, dict) or not isinstance(answer.get("query", {}), dict):
            raise SourceError(
                f"{self._client.host} sent something that is not an answer of MediaWiki's action API "
                f"(it starts with {body[:40]!r}). Check that {_URL} is the address of its api.php."
            )
        if "error" in answer:
            code, info = _error(answer)
            raise SourceError(
                f"{self._client.host} refused the request: {one_line(code[:50])}: {one_line(info[:200])} "
                f"Check {_URL}, or try again later."
            )
        if not isinstance(_query(answer).get("pages", []), list):
            raise SourceError(
                f"{self._client.host} sent pages that are not a list. It may be older than MediaWiki 1.25 "
                f"(formatversion=2); set {_URL} to another wiki."
            )
        if params.get("prop") == "extracts" and "warnings" in answer and not _extracts(answer):
            raise SourceError(
                f"{self._client.host} gives no plain texts: it lacks the TextExtracts extension. "
                f"Install that there, or set {_URL} to another wiki."
            )
        return answer

    def _page_url(self, page: Mapping[str, Any]) -> str:
        """Return the page's canonical address if it is of this site, else one that we know to be."""
        own = web_address(page.get("canonicalurl"))
        if own and urlsplit(own).hostname == self._client.host and "@" not in urlsplit(own).netloc:
            return own
        api = self._client.address({}).partition("?")[0]
        return f"{api.rpartition('/')[0]}/index.php?curid={page['pageid']}"


def api_address(settings: Settings) -> str:
    """Return the address of the API in the language of the settings.

    Raises:
        ConfigError: the language cannot be part of an address.
    """
    url = settings.wikipedia_url
    language = settings.wikipedia_language or language_named(settings.language).code
    if "{language}" in url and not _LANGUAGE.fullmatch(language):
        raise ConfigError(
            f"RLHF_WIKIPEDIA_LANGUAGE={language!r} is not a valid code of a Wikipedia. "
            "Give the first part of its address, such as en or zh-min-nan."
        )
    return url.replace("{language}", language)


def usual_licence(host: str) -> str | None:
    """Return the licence of a wiki that does not name it: https://foundation.wikimedia.org/wiki/Policy:Terms_of_Use."""
    return "CC BY-SA 4.0" if host.endswith(".wikipedia.org") else None


_TEX = re.compile(r"\{\\(?:display|text|script|scriptscript)style\b")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
#: No formula is longer.
_TEX_CHARS = 5_000
_BLANK = " \t\u00a0\u2009"
_FOLLOWS = tuple(",.;:!?)")


@dataclass(frozen=True, slots=True)
class _Hit:
    page_id: int
    title: str
    url: str


@dataclass(frozen=True, slots=True)
class _SearchResult:
    hits: tuple[_Hit, ...]
    licence: str | None


def _attempts(words: list[str]) -> Iterator[str]:
    yield " ".join(words)
    if len(words) > 1:
        # An operator of CirrusSearch, which Wikipedia has; MediaWiki's own search takes it for one more word.
        yield " OR ".join(words)
        fewer = longest_first(words)[:2]
        if len(words) > 2:
            yield " ".join(fewer)
        yield from fewer


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _is_busy(body: bytes) -> bool:
    if b'"error"' not in body[:4096]:
        return False
    answer = _json(body)
    return isinstance(answer, dict) and _error(answer)[0] in _PASSING


def _error(answer: Mapping[str, Any]) -> tuple[str, str]:
    error = answer.get("error")
    if not isinstance(error, dict):
        return "unknown", str(error)
    return str(error.get("code")), str(error.get("info"))


def _query(answer: Mapping[str, Any]) -> dict[str, Any]:
    query: dict[str, Any] = answer.get("query", {})
    return query


def _pages(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [page for page in _query(answer).get("pages", []) if isinstance(page, dict)]


def formulas_once(text: str) -> str:
    """Return the text with each formula in TeX only.

    TextExtracts gives a formula twice: its signs one by one, each set off by blanks, and its TeX in
    `{\\displaystyle ...}`. The signs have no powers and no fractions, so that 10^{-6} would be 10 - 6.
    """
    parts, end = [], 0
    for found in _TEX.finditer(text):
        close = _closed(text, found.start())
        if found.start() < end or close is None:
            continue
        parts += [text[end : _without_signs(text, end, found.start())], " ", text[found.end() : close - 1].strip()]
        end = close
        gap = close
        while gap < len(text) and text[gap].isspace():
            gap += 1
        if "\n\n" not in text[close:gap]:
            parts.append("" if text[gap : gap + 1] in _FOLLOWS else " ")
            end = gap
    return "".join([*parts, text[end:]])


def _closed(text: str, start: int) -> int | None:
    """Return where the brace that opens there is closed, None if it is not soon."""
    depth = 0
    for found in _BRACE.finditer(text, start, start + _TEX_CHARS):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if not depth:
            return found.end()
    return None


def _without_signs(text: str, start: int, end: int) -> int:
    """Return where the signs begin that stand before a formula's TeX: each has two blanks before it, a word has one."""
    while True:
        while end > start and text[end - 1].isspace():
            end -= 1
        sign = end
        while sign > start and not text[sign - 1].isspace():
            sign -= 1
        if sign - 2 < start or sign == end or not (text[sign - 1] in _BLANK and text[sign - 2] in _BLANK):
            return end
        end = sign


def _extracts(answer: Mapping[str, Any]) -> list[str]:
    return [page["extract"] for page in _pages(answer) if isinstance(page.get("extract"), str)]


def _title(page: Mapping[str, Any]) -> str:
    return one_line(page.get("title")) or ""


def _disambiguates(page: Mapping[str, Any]) -> bool:
    # The property comes from an extension that Wikipedia has; other wikis have at least the custom.
    props = page.get("pageprops")
    return (isinstance(props, dict) and "disambiguation" in props) or "(disambiguation)" in _title(page)


def _licence(rights: Mapping[str, Any]) -> str | None:
    return ", ".join(part for part in (one_line(rights.get("text")), web_address(rights.get("url"))) if part) or None


def _parts(text: str) -> Iterator[Part]:
    """Split plain text with headings in wiki style (`== Like this ==`) at these."""
    pieces = _HEADING.split(text)
    yield Part("", without_markup(pieces[0]))
    for heading, body in zip(pieces[2::3], pieces[3::3], strict=True):
        if heading.casefold() not in _LISTS:
            yield Part(without_markup(heading), without_markup(body))
