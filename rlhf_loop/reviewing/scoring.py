"""Scores of the live model for the answers that wait, so that the queue can begin with what it is unsure of.

It is computed beforehand, in the background: to score takes milliseconds to seconds an answer, and a rater who wants
the next one should not wait for that.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Protocol

from sqlalchemy import delete, func, or_, select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import aliased

from rlhf_loop.config import Settings
from rlhf_loop.domain import Candidate, Ranking, field_values
from rlhf_loop.errors import RlhfLoopError
from rlhf_loop.ranking import Ranker
from rlhf_loop.reviewing.candidates import newest_waiting, same_prompt, stands_for_all
from rlhf_loop.store.engine import reading, transaction, upsert
from rlhf_loop.store.tables import AnswerScore, Interaction, Review
from rlhf_loop.utils.concurrency import start_thread
from rlhf_loop.utils.sqlite import in_parts

logger = logging.getLogger(__name__)

#: Questions between two writes; answers of one question that are ranked at most.
_QUESTIONS, _OF_ONE = 10, 50
#: The cosine from which two questions may be of one field.
_NEAR_FIELD = 0.3
#: The newest answers that wait, among which those without a score are looked for: the queue is not as long for anybody.
_LOOKED_AT = 20_000
#: Scores that are looked at for answers that wait no more.
_OF_RATED = 5_000


class Ranks(Protocol):
    """A ranker of candidates, such as `Ranker`."""

    @property
    def model_version(self) -> str | None: ...

    def ranking(self, query: str, candidates: Sequence[Candidate]) -> Ranking: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _ScoredAnswer:
    interaction_key: int
    model_version: str
    score: float
    margin: float | None


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Answers to one question that are to be scored."""

    group: str | None
    ids: list[int]


def refresh_scores(engine: Engine, ranker: Ranks, *, limit: int = 500, now: datetime | None = None) -> int:
    """Score answers that wait and that the live model has not scored yet, the newest first; return how many.

    `limit` bounds the answers. Each is ranked among all candidates of its question, whose best two say how close they
    are. Without a model nothing is done.
    """
    version = ranker.model_version
    if version is None:
        return 0
    now = now or datetime.now(UTC)
    _forget_rated(engine)
    scored = 0
    with reading(engine) as connection:
        questions = _questions(connection, version, limit)
    for place in range(0, len(questions), _QUESTIONS):
        with reading(engine) as connection:
            several = [_answers(connection, question) for question in questions[place : place + _QUESTIONS]]
        found = [each for answers in several for each in _score(ranker, answers)]
        with transaction(engine) as connection:
            scored += _store(connection, found, now)
    return scored


class Scoring:
    """Refreshes the scores in the background: one run at a time in a process, and not at once again.

    `ranker` makes what ranks at the first need, None while nothing can; by default the live model, if its file and the
    encoder's weights are there.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        every_s: float = 30.0,
        limit: int = 500,
        ranker: Callable[[], Ranks | None] | None = None,
    ) -> None:
        self._settings = settings
        self._every_s = every_s
        self._limit = limit
        self._make_ranker = ranker or self._live
        self._ranker: Ranks | None = None
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._running = False
        self._last: float | None = None
        self._said: str | None = None

    def poke(self, engine: Engine) -> Future[int] | None:
        """Begin a run, unless one is under way or has just been; return it, with the number of answers scored."""
        if self._process != os.getpid():
            # After a fork: the parent's thread does not exist here, and will never release anything.
            self._lock, self._running, self._process = threading.Lock(), False, os.getpid()
        with self._lock:
            if self._running or (self._last is not None and monotonic() - self._last < self._every_s):
                return None
            self._running = True
        try:
            return start_thread(lambda: self._run(engine), name="rlhf-scoring")
        except BaseException:
            self._running = False
            raise

    def out_of_field(self, asked: Sequence[str], others_field: Sequence[str], own_field: Sequence[str]) -> list[bool]:
        """Tell of each question whether it is like one of `others_field`, and more so than like any of `own_field`.

        It goes by the encoder's vectors. Without an encoder it is of none.
        """
        none = [False] * len(asked)
        try:
            ranker = self._ranker = self._ranker or self._make_ranker()
            encoder = ranker.encoder if isinstance(ranker, Ranker) else None
            if encoder is None or not others_field:
                return none
            texts = list(dict.fromkeys((*asked, *others_field, *own_field)))
            vectors = dict(zip(texts, encoder.encode(texts), strict=True))
        except RlhfLoopError as error:
            self._say(f"What is whose field cannot be told, so the queue goes without: {error}")
            return none

        def nearest(text: str, those: Sequence[str]) -> float:
            return max((float(vectors[text] @ vectors[each]) for each in those), default=-1.0)

        near = encoder.as_near(_NEAR_FIELD)
        return [near <= nearest(each, others_field) > nearest(each, own_field) for each in asked]

    def _run(self, engine: Engine) -> int:
        try:
            if self._ranker is None:
                self._ranker = self._make_ranker()
            return 0 if self._ranker is None else refresh_scores(engine, self._ranker, limit=self._limit)
        except RlhfLoopError as error:
            self._say(f"The answers that wait cannot be scored, so the newest come first: {error}")
        except Exception:
            # The queue works without, and the next run may go well.
            logger.exception("Scoring the answers that wait failed.")
        finally:
            self._last, self._running = monotonic(), False
        return 0

    def _live(self) -> Ranks | None:
        path = self._settings.model_path
        if not path.exists():
            self._say(
                f"No reward model at {path.absolute()} yet: raters get the newest answers first. Run: rlhf-loop train"
            )
            return None
        # Imported here: it brings the runtime along.
        from rlhf_loop.encoders import load_encoder

        return Ranker(self._settings, encoder=load_encoder(self._settings, download=False, serving=True))

    def _say(self, message: str) -> None:
        if message != self._said:
            logger.warning("%s", message)
        self._said = message


def _forget_rated(engine: Engine) -> None:
    """Delete scores of answers that were rated meanwhile, elsewhere than on the review screen.

    They are looked for among the answers of the newest reviews, and in a stretch of the scores that begins anywhere: so
    what was left over is found sooner or later, and not all are read each time.
    """
    of = AnswerScore.interaction_key
    with reading(engine) as connection:
        ends = (select(end(of)).scalar_subquery() for end in (func.min, func.max))
        first, last = connection.execute(select(*ends)).one()
        if first is None:
            return
        newest = select(Review.interaction_key).order_by(Review.id.desc()).limit(_OF_RATED)
        stretch = select(of).where(of >= random.randint(first, last)).order_by(of).limit(_OF_RATED)
        ids = set[int]()
        for some in (newest, stretch):
            looked_at = some.subquery()
            rated = select(of).join(looked_at, looked_at.c[0] == of).join(Interaction, Interaction.id == of)
            ids.update(connection.execute(rated.where(Interaction.rating.is_not(None))).scalars())
    for part in in_parts(sorted(ids)):
        with transaction(engine) as connection:
            connection.execute(delete(AnswerScore).where(of.in_(part)))


def _questions(connection: Connection, version: str, limit: int) -> list[_Waiting]:
    """Return the newest answers that are to be scored, by the group and the prompt of their question."""
    newest = newest_waiting(_LOOKED_AT).subquery()
    waiting = (
        select(Interaction.id, Interaction.candidate_group, Interaction.user_prompt)
        .join(newest, newest.c.id == Interaction.id)
        .join(AnswerScore, AnswerScore.interaction_key == Interaction.id, isouter=True)
        .where(or_(AnswerScore.interaction_key.is_(None), AnswerScore.model_version != version), stands_for_all())
        .order_by(Interaction.id.desc())
        .limit(limit)
    )
    found: dict[tuple[str | None, str], list[int]] = {}
    for row in connection.execute(waiting):
        found.setdefault((row.candidate_group, row.user_prompt), []).append(row.id)
    return [_Waiting(group, ids) for (group, _), ids in found.items()]


def _answers(connection: Connection, question: _Waiting) -> list[Any]:
    """Return those that are to be scored, and others of their question."""
    one = aliased(Interaction)
    group = one.candidate_group.is_(None) if question.group is None else one.candidate_group == question.group
    answers = select(one.id, one.user_prompt, one.ai_response, one.rating)
    wanted = answers.where(one.id.in_(question.ids))
    others = answers.join(Interaction, same_prompt(Interaction, one)).where(Interaction.id == question.ids[0], group)
    others = others.order_by((one.id + 0).desc()).limit(_OF_ONE)
    found = {row.id: row for query in (wanted, others) for row in connection.execute(query)}
    return [found[id] for id in sorted(found)]


def _score(ranker: Ranks, answers: Sequence[Any]) -> list[_ScoredAnswer]:
    """Rank the answers to a question, each text once; return the scores of those that wait."""
    texts = list(dict.fromkeys(row.ai_response for row in answers))
    if not texts:
        return []
    ranking = ranker.ranking(answers[0].user_prompt, [Candidate(text) for text in texts])
    scores = {of.text: of.score for of in ranking.candidates if of.score is not None}
    if ranking.model_version is None or not scores:
        return []
    best = [of.text for of in ranking.candidates[:2]]
    margin = abs(scores[best[0]] - scores[best[1]]) if len(best) == 2 else None
    return [
        _ScoredAnswer(
            interaction_key=row.id,
            model_version=ranking.model_version,
            score=min(1.0, max(0.0, scores[row.ai_response])),
            margin=margin if row.ai_response in best else None,
        )
        for row in answers
        if row.rating is None
    ]


def _store(connection: Connection, found: Sequence[_ScoredAnswer], now: datetime) -> int:
    """Store the scores of those that are still there and still wait; a repeated answer never waits."""
    ids = [each.interaction_key for each in found]
    there = select(Interaction.id).where(Interaction.id.in_(ids), Interaction.rating.is_(None), stands_for_all())
    waiting = set(
        connection.execute(there.order_by(Interaction.id).with_for_update(read=True, key_share=True)).scalars()
    )
    rows = [field_values(each) | {"scored_at": now} for each in found if each.interaction_key in waiting]
    upsert(connection, AnswerScore, rows, key=["interaction_key"])
    return len(rows)
