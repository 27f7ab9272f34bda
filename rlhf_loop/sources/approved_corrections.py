"""Experts' corrections as a source: what an admin approved is a candidate when its question is asked again.

Each process keeps the approved corrections in memory, at most seconds old, with the vectors of their questions. A wrong
answer to a near question is worse than none, and vectors alone cannot tell whether two questions are the same: to the
encoder "type 1" and "type 2", two drugs, or a question and its denial are nearly the same. So each word with a meaning
must also have its like in the other question. `python -m tools.near_questions` measures it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy.engine import Engine

from rlhf_loop.config import Settings
from rlhf_loop.domain import Passage, ReviewerRole, prompt_key
from rlhf_loop.encoders.runtime import DIMENSION, Vectors
from rlhf_loop.errors import DatabaseError, SourceError
from rlhf_loop.reviewing.corrections import ApprovedStamp, Correction, approved_corrections, approved_stamp
from rlhf_loop.store.engine import ensure_schema, make_engine
from rlhf_loop.utils.concurrency import start_thread
from rlhf_loop.utils.wording import QuestionWords

if TYPE_CHECKING:
    from rlhf_loop.encoders import TextEncoder


#: The cosine of two questions from which they may be the same. By `tools.near_questions` it costs 1 % of rewordings,
#: and leaves out what has the same words and is put together quite differently.
NEAR = 0.8

_NEVER = datetime.min.replace(tzinfo=UTC)
logger = logging.getLogger(__name__)
#: Seconds for which nobody looks whether something was approved or withdrawn.
_LOOK_EVERY_S = 2.0
#: Seconds that a question waits for the database; less than the sources have together.
_PATIENCE_S = 2
#: New questions whose vectors a caller waits for; those of more are computed beside, this many at a time.
_AT_ONCE = 32


class CorrectionsSource:
    """A source of the approved corrections of the same question, then of nearly the same one. Safe to share.

    Without an encoder only the same question is found again: the same but for case and white space.
    """

    name = "corrections"
    needs_database = True

    def __init__(
        self, settings: Settings, encoder: TextEncoder | None, *, clock: Callable[[], float] = monotonic
    ) -> None:
        self._settings = settings
        self._encoder = encoder
        self._clock = clock
        self._lock = threading.Lock()
        self._process: int | None = None
        self._engine: Engine | None = None
        self._known: _CorrectionIndex | None = None
        self._looked_at = float("-inf")
        self._embedding = False

    def search(self, query: str, *, limit: int) -> Sequence[Passage]:
        """Return at most `limit` corrections, the nearest question's first, of one question the newest first.

        Raises:
            SourceError: the database does not answer.
            EncoderError: the question cannot be embedded.
        """
        known = self._fresh()
        key = prompt_key(query)
        found = list(known.by_key.get(key, ()))
        if self._encoder is not None and len(known.vectors) and len(found) < limit:
            cosines = known.vectors @ self._encoder.encode_whole([query])[0]
            words = QuestionWords(query)
            near = np.flatnonzero(cosines >= self._encoder.as_near(NEAR))
            for place in near[np.argsort(-cosines[near], kind="stable")].tolist():
                question = known.questions[place]
                if question.key != key and words.same_as(question.words):
                    found += known.by_key[question.key]
        once: dict[str, Passage] = {}
        for passage in found:
            once.setdefault(passage.text, passage)
        return list(once.values())[:limit]

    def warm_up(self) -> None:
        """Read what is approved, and embed its questions."""
        self._fresh()

    def close(self) -> None:
        """Close the connections; another question opens them again."""
        with self._lock:
            if self._engine is not None and self._process == os.getpid():
                self._engine.dispose()

    def _fresh(self) -> _CorrectionIndex:
        """Return what is approved, at most some seconds old."""
        known = self._known
        # One looks, the others go on with what is known; before anything is, they wait for it.
        if not self._lock.acquire(blocking=known is None) and known is not None:
            return known
        try:
            known = self._known
            if known is not None and self._clock() - self._looked_at < _LOOK_EVERY_S:
                return known
            engine = self._connected()
            stamp = approved_stamp(engine)
            if known is None or stamp != known.stamp:
                known = self._known = self._read(stamp, approved_corrections(engine), known)
            self._looked_at = self._clock()
            return known
        except DatabaseError as error:
            # Nobody can tell what was withdrawn meanwhile, and that must not be given out.
            self._known = None
            logger.error("%s", error)
            raise SourceError("The approved corrections cannot be read; the log says why.") from error
        finally:
            self._lock.release()

    def _connected(self) -> Engine:
        if self._engine is None or self._process != os.getpid():
            engine = make_engine(self._settings.database_url, patience_s=_PATIENCE_S, lasting=self._settings)
            ensure_schema(engine)
            self._engine, self._process = engine, os.getpid()
        return self._engine

    def _read(
        self, stamp: ApprovedStamp, corrections: Sequence[Correction], before: _CorrectionIndex | None
    ) -> _CorrectionIndex:
        by_key: dict[str, list[Passage]] = {}
        texts: dict[str, str] = {}
        for of in sorted(corrections, key=lambda of: (of.decided_at or _NEVER, of.review_id), reverse=True):
            key = prompt_key(of.prompt)
            texts.setdefault(key, of.prompt)
            by_key.setdefault(key, []).append(_passage(of))
        # Those whose vectors are there come first, as vectors are only ever appended.
        old = before.questions[: len(before.vectors)] if before else ()
        kept = [place for place, question in enumerate(old) if question.key in by_key]
        there = {old[place].key: old[place] for place in kept}
        new = [_Question(key, text, QuestionWords(text)) for key, text in texts.items() if key not in there]
        dimension = self._encoder.dimension if self._encoder else DIMENSION
        vectors = before.vectors[kept] if before else np.empty((0, dimension), dtype=np.float32)
        return self._embedded(_CorrectionIndex(stamp, by_key, (*there.values(), *new), vectors))

    def _embedded(self, known: _CorrectionIndex) -> _CorrectionIndex:
        """Add the vectors of a few new questions, or let them be added beside where they are many."""
        missing = len(known.questions) - len(known.vectors)
        if self._encoder is None or not missing:
            return known
        if missing <= _AT_ONCE:
            return _with_next(known, self._encoder)
        if not self._embedding:
            self._embedding = True
            start_thread(self._embed_beside, name="rlhf-corrections")
        return known

    def _embed_beside(self) -> None:
        try:
            while (known := self._unfinished()) is not None:
                assert self._encoder is not None
                more = _with_next(known, self._encoder)
                with self._lock:
                    # Unless something else was approved meanwhile; then its own questions are next.
                    if self._known is known:
                        self._known = more
        except Exception:
            self._embedding = False
            logger.exception("The questions of corrections cannot be embedded, so that only the same ones are found.")

    def _unfinished(self) -> _CorrectionIndex | None:
        """Return what still lacks vectors; with None the work beside has ended."""
        with self._lock:
            known = self._known
            self._embedding = known is not None and len(known.vectors) < len(known.questions)
            return known if self._embedding else None


@dataclass(frozen=True, slots=True)
class _Question:
    key: str
    text: str
    words: QuestionWords


@dataclass(frozen=True, slots=True)
class _CorrectionIndex:
    """The approved corrections, newest first, by their questions; `vectors` are those of the first `questions`."""

    stamp: ApprovedStamp
    by_key: Mapping[str, Sequence[Passage]]
    questions: tuple[_Question, ...]
    vectors: Vectors


def _with_next(known: _CorrectionIndex, encoder: TextEncoder) -> _CorrectionIndex:
    done = len(known.vectors)
    texts = [question.text for question in known.questions[done : done + _AT_ONCE]]
    return replace(known, vectors=np.concatenate([known.vectors, encoder.encode_whole(texts)]))


def _passage(of: Correction) -> Passage:
    by_expert = of.review.role == ReviewerRole.EXPERT
    return Passage(
        text=of.correction,
        title="Corrected by an expert" if by_expert else "Corrected by a reader, approved by an expert",
        retrieved_at=of.decided_at,
        whole=True,
        verbatim=True,
    )
