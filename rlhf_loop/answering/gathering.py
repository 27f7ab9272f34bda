"""Gathering of passages: all sources are asked at the same time; none of them is trusted, and none can hold it up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from time import monotonic, perf_counter

from rlhf_loop.domain import Passage
from rlhf_loop.errors import SourceError
from rlhf_loop.sources.excerpts import excerpt
from rlhf_loop.sources.source import Source
from rlhf_loop.utils import tracing
from rlhf_loop.utils.breaker import Breaker
from rlhf_loop.utils.concurrency import start_thread
from rlhf_loop.utils.languages import ENGLISH, Language, language_named
from rlhf_loop.utils.text import clean_text, one_line, visible, web_address

logger = logging.getLogger(__name__)

#: Questions that a source may be busy with at once; one that hangs keeps a thread for each.
_BUSY = 32
#: Seconds that questions wait for what sources prepare, such as an index that is being opened: a late answer is better
#: than one without the documents.
PREPARING_S = 20.0
#: Characters of a passage that are read; nobody answers a question with a book.
_LONGEST = 100_000


@dataclass(frozen=True, slots=True)
class SourceResults:
    """The sources' passages, in their order, why others found nothing, and how long each took, in milliseconds."""

    passages: Mapping[str, tuple[Passage, ...]]
    degraded: Mapping[str, str]
    timings: Mapping[str, float]


class Gatherer:
    """Asks the sources, each in a thread of its own. Safe to share between threads."""

    def __init__(
        self, sources: Sequence[Source], *, deadline_s: float, limit: int, language: Language | None = None
    ) -> None:
        language = language or language_named(ENGLISH)
        self._asked = [_SourceState(source, limit, language) for source in sources]
        self._deadline_s = deadline_s

    def gather(self, query: str) -> SourceResults:
        """Return what is there at the deadline. A source that fails, hangs or lies costs only its own candidates.

        One that says it is `cold`, as an index that somebody has just made, may prepare before the time runs.
        """
        for asked in self._asked:
            asked.prepare()
        started = perf_counter()
        running = [(asked, asked.start(query)) for asked in self._asked]
        found = []
        for asked, result in running:
            left = max(0.0, started + self._deadline_s - perf_counter())
            found.append((asked.name, asked.collect(result, wait_s=left, deadline_s=self._deadline_s)))
        return SourceResults(
            passages={name: result.passages for name, result in found},
            degraded={name: result.trouble for name, result in found if result.trouble},
            timings={name: result.milliseconds for name, result in found},
        )

    def warm_up(self) -> None:
        """Let those sources prepare that can: a source may have a method `warm_up` without arguments."""
        for asked in self._asked:
            asked.warm_up()

    def close(self) -> None:
        """Let those sources close what is open that can: a source may have a method `close` without arguments."""
        for asked in self._asked:
            asked.close()

    def silent(self, *, without_database: bool) -> bool:
        """Tell whether there are sources, and none can be asked now.

        A source that is nothing without the ratings database may say so by an attribute `needs_database`.
        """
        return bool(self._asked) and all(
            asked.breaker.rest_s() or (asked.needs_database and without_database) for asked in self._asked
        )

    def ask_again(self) -> None:
        """End the pauses of those sources that need the database, which is there again."""
        for asked in self._asked:
            if asked.needs_database:
                asked.breaker.succeeded()

    def resting(self) -> Mapping[str, float]:
        """Return for how many more seconds which sources are paused."""
        rests = {asked.name: asked.breaker.rest_s() for asked in self._asked}
        return {name: seconds for name, seconds in rests.items() if seconds}


@dataclass(frozen=True, slots=True)
class _Result:
    passages: tuple[Passage, ...] = ()
    trouble: str = ""
    milliseconds: float = 0.0


class _SourceState:
    """A source with what is known of its reliability."""

    def __init__(self, source: Source, limit: int, language: Language) -> None:
        self.name = source.name
        self.needs_database = bool(getattr(source, "needs_database", False))
        self.breaker = Breaker()
        self._source = source
        self._limit = limit
        self._language = language
        self._lock = threading.Lock()
        self._busy = 0
        self._preparing: tuple[Future[None], float] | None = None

    def prepare(self) -> None:
        """Wait for a source that says it is cold, all questions together no longer than `PREPARING_S`."""
        if getattr(self._source, "cold", False):
            with self._lock:
                if self._preparing is None:
                    self._preparing = start_thread(self.warm_up, name="rlhf-prepare"), monotonic() + PREPARING_S
                prepared, until = self._preparing
            wait([prepared], timeout=max(0.0, until - monotonic()))

    def warm_up(self) -> None:
        """Let the source prepare, if it can."""
        try:
            if prepare := getattr(self._source, "warm_up", None):
                prepare()
        except Exception as error:
            logger.warning("Source %s cannot prepare: %r", self.name, error)

    def close(self) -> None:
        """Let the source close what is open, if it can."""
        try:
            if close := getattr(self._source, "close", None):
                close()
        except Exception as error:
            logger.warning("Source %s cannot close: %r", self.name, error)

    def start(self, query: str) -> Future[_Result] | str:
        """Ask in a thread of its own, or say why not."""
        with self._lock:
            if self._busy >= _BUSY:
                return f"still busy with {self._busy} questions"
            if not self.breaker.may_try():
                return f"paused for {self.breaker.rest_s():.0f} s after repeated failures"
            self._busy += 1
        try:
            return start_thread(lambda: self._ask(query), name=f"rlhf-source-{self.name}")
        except BaseException:
            self._end()
            raise

    def collect(self, result: Future[_Result] | str, *, wait_s: float, deadline_s: float) -> _Result:
        """Return what was found, or what was the trouble."""
        if isinstance(result, str):
            return _Result(trouble=result)
        if not wait([result], timeout=wait_s).done:
            self.breaker.failed()
            logger.warning("Source %s: no answer within %g s.", self.name, deadline_s)
            return _Result(trouble=f"no answer within {deadline_s:g} s", milliseconds=1000 * deadline_s)
        # Of any kind: it comes out of a thread of the source's own, so that none of them is meant for this one.
        if error := result.exception():
            self.breaker.failed(retry_after_s=_wish(error))
            # What is no SourceError is a defect of the source: somebody will want to see where.
            logger.warning(
                "Source %s: %r", self.name, error, exc_info=None if isinstance(error, SourceError) else error
            )
            return _Result(trouble=_reason(error))
        found = result.result()
        if found.passages or not found.trouble:
            self.breaker.succeeded()
        else:
            self.breaker.failed()
        if found.trouble:
            logger.warning("Source %s: %s", self.name, found.trouble)
        return found

    def _ask(self, query: str) -> _Result:
        try:
            started = perf_counter()
            with tracing.span("source", {"rlhf.source": self.name}):
                given = self._source.search(query, limit=self._limit)
            passages, trouble = _checked(given, self._limit, query, self._language)
            return _Result(passages, trouble, 1000 * (perf_counter() - started))
        finally:
            self._end()

    def _end(self) -> None:
        with self._lock:
            self._busy -= 1


def _checked(given: object, limit: int, query: str, language: Language) -> tuple[tuple[Passage, ...], str]:
    """Return what of it can be used, and what was wrong with the rest."""
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise SourceError(f"It gave a {type(given).__name__} instead of a list of passages. Correct its search().")
    passages, troubles = [], []
    for number, passage in enumerate(islice(given, limit + 1)):
        if number == limit:
            troubles.append(f"gave more than {limit} passages")
            break
        if not isinstance(passage, Passage):
            troubles.append(f"gave a {type(passage).__name__} instead of a passage")
        elif not isinstance(passage.text, str) or not visible(text := clean_text(passage.text[:_LONGEST])):
            troubles.append("gave a passage without text")
        else:
            if len(passage.text) > _LONGEST:
                troubles.append(f"gave a passage of {len(passage.text):,} characters")
            shown = text if passage.verbatim else excerpt(query, text, language, whole=bool(passage.whole))
            passages.append(_honest(passage, shown))
    return tuple(passages), "; ".join(dict.fromkeys(troubles))


def _honest(passage: Passage, text: str) -> Passage:
    """Return the passage with what can be shown of it."""
    moment = passage.retrieved_at
    return replace(
        passage,
        text=text,
        title=one_line(passage.title),
        url=web_address(passage.url),
        licence=one_line(passage.licence),
        retrieved_at=moment.astimezone(UTC) if isinstance(moment, datetime) and moment.tzinfo else None,
    )


def _wish(error: BaseException) -> float | None:
    """Return for how long a source asks to be paused, in seconds, if it does."""
    wish = error.retry_after_s if isinstance(error, SourceError) else None
    return float(wish) if isinstance(wish, int | float) and 0 < wish < float("inf") else None


def _reason(error: BaseException) -> str:
    """Say why for whoever asked: anything but a SourceError was written for the log, and may hold paths and names."""
    if isinstance(error, SourceError):
        return (str(error).strip().splitlines() or ["It gave no reason."])[0][:300]
    return f"failed ({type(error).__name__}); the log says more"
