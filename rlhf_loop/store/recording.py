"""Recording of answers, rankings and reviews: in the database, or in the outbox while that is down, and replayed.

Rankings go to an outbox of their own first, and a batch at a time to the database: nobody waits for either.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from sqlalchemy.engine import Engine

from rlhf_loop.config import Settings
from rlhf_loop.domain import (
    Candidate,
    RankedCandidate,
    Rating,
    RecordedRanking,
    Review,
    ReviewerRole,
    ServingRecord,
    field_values,
    prompt_key,
    ranking_of,
    rating_fields,
)
from rlhf_loop.errors import DatabaseError, OutboxError, RlhfLoopError
from rlhf_loop.store import interactions
from rlhf_loop.store.engine import ensure_schema, make_engine, transaction
from rlhf_loop.store.interactions import put as put_served
from rlhf_loop.store.outbox import Entry, Outbox, outboxes
from rlhf_loop.store.validation import cleaned, problem
from rlhf_loop.utils.concurrency import start_thread
from rlhf_loop.utils.text import unstorable

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

#: How long a question may wait for the database, in seconds; one that hangs counts as one that is down.
PATIENCE_S = 2
#: Entries read from the outbox at a time.
_BATCH = 100
#: Seconds between two looks into the outbox.
_LOOK_EVERY_S = 2.0
#: Rankings that wait for so long are not the usual ones.
_USUAL = timedelta(minutes=1)
_ANSWER, _RATING, _RANKING = "answer", "rating", "ranking"


@dataclass(frozen=True, slots=True)
class _AnswerEntry:
    """The candidates of one answer, with how it was served."""

    ratings: Sequence[Rating]
    served: ServingRecord | None


@dataclass(slots=True)
class _Group:
    """Answers for the next transaction; `busy` while a thread of this process writes those before them."""

    process: int = field(default_factory=os.getpid)
    answers: list[tuple[_AnswerEntry, Future[None]]] = field(default_factory=list)
    busy: bool = False


class Recorder:
    """Writes what was answered and rated. Safe to share between threads; light until its first use.

    What is written twice, because nobody could tell whether the first time went well, is there once: each interaction
    has an external id, and a rating replaces the same reviewer's earlier one. `loses` says that the last one could be
    kept nowhere. `on_return` is called when a database that could not be used is there again.
    """

    def __init__(self, settings: Settings, *, on_return: Callable[[], None] = lambda: None) -> None:
        self._settings = settings
        self._on_return = on_return
        self._outbox, self._rankings = outboxes(settings)
        self.loses = self._down = self._away = self._drops = False
        self._lock = threading.Lock()
        self._group = _Group()
        self._engine: Engine | None = None
        self._ready = False
        self._stop = threading.Event()
        self._replaying: int | None = None

    def record(self, ratings: Sequence[Rating], served: ServingRecord | None = None) -> str:
        """Keep the candidates of one answer, with how it was served; return why they wait in the outbox.

        An empty text says that they do not. All of it is in the database, or nothing of it. Answers that come while
        others are written are written together: a transaction costs more than what is in it.

        Raises:
            OutboxError: neither the database nor the outbox can take them.
        """

        def body() -> dict[str, Any]:
            candidates = {"candidates": [_to_json(rating) for rating in ratings]}
            return candidates if served is None else {**candidates, "served": _to_json(served)}

        names = [rating.external_id for rating in ratings if rating.external_id]
        return self._do(_ANSWER, lambda: self._write_with_others(_AnswerEntry(ratings, served)), body, names)

    def record_ranking(self, ranking: RecordedRanking) -> bool:
        """Keep a ranking, which is in the database soon; return False if it cannot be kept, which the log says.

        What is kept survives this process.
        """
        self._start_replaying()
        try:
            self._rankings.put(_RANKING, _ranking_to_json(ranking), interactions=[ranking.id])
        except OutboxError as error:
            if not self._drops:
                logger.error("Rankings are not recorded: %s", error)
            self._drops = True
            return False
        self._drops = False
        return True

    def settle(self, ranking: str | None = None) -> None:
        """Have the rankings that wait written now, if they can be; with an id only where this one waits."""
        try:
            if ranking is None or self._rankings.mentions(ranking):
                self._replay(lock_s=PATIENCE_S)
        except RlhfLoopError as error:
            logger.warning("What waits in the outbox cannot be recorded yet: %s", error)

    def take_out(
        self, *, query: str | None = None, caller: str | None = None, ids: Set[str] = frozenset(), dry_run: bool = False
    ) -> int:
        """Take out of the outboxes what is about a question, a caller or these interactions; return how much that was.

        What the database has refused goes, too. With `dry_run` it is counted only.

        Raises:
            OutboxError: an outbox cannot be used, or another process writes just what waits there into the database.
        """
        key, names, taken = None if query is None else prompt_key(query), set(ids), 0

        def is_meant(entry: Entry) -> bool:
            if entry.kind == _RATING:
                id = entry.body["interaction"]
                return id in names or ranking_of(id) in names
            if entry.kind == _RANKING:
                given, asked, about = entry.body, {entry.body["query"]}, {entry.body["id"]}
            else:
                answers = entry.body["candidates"]
                given, asked = entry.body.get("served", {}), {each["user_prompt"] for each in answers}
                about = {each["external_id"] for each in answers if "external_id" in each}
            meant = given.get("caller") == caller if key is None else key in map(prompt_key, asked)
            names.update(about if meant else ())
            return meant

        # Rankings first, so that their ratings are known.
        for outbox in (self._rankings, self._outbox):
            if not outbox.path.exists():
                continue
            try:
                with FileLock(f"{outbox.path}.lock", timeout=PATIENCE_S):
                    found = outbox.find(is_meant)
                    if not dry_run:
                        outbox.done(*found)
            except Timeout as error:
                raise OutboxError(
                    f"Another process has been writing what waits in the outbox {outbox.path} into the database for "
                    f"{PATIENCE_S} s. Try again when it has ended."
                ) from error
            taken += len(found)
        return taken

    def scrub(self) -> bool:
        """Have the outboxes' logs hold nothing of what has left, delivered or taken out; False if one has to stay."""
        return all([outbox.scrub() for outbox in (self._rankings, self._outbox)])

    def rate(self, interaction_id: str, review: Review) -> bool:
        """Keep a review of the interaction with that external id; return False if it waits in the outbox.

        Raises:
            ValueError: it cannot be stored.
            LookupError: there is no such interaction, neither in the database nor in the outbox.
            OutboxError: neither the database nor the outbox can take it.
        """
        if unstorable(interaction_id):
            raise LookupError(
                f"There is no answer with the id {interaction_id!a}. Send the id that came with the answer."
            )
        review = replace(review, reviewed_at=review.reviewed_at or datetime.now(UTC))
        if reason := problem(cleaned(Rating("-", "-", **rating_fields(review))), rated=True):
            raise ValueError(f"The rating cannot be stored: {reason}.")
        return not self._do(
            _RATING,
            lambda: self._bounded(lambda engine: _write_review(engine, interaction_id, review)),
            lambda: {"interaction": interaction_id, **_to_json(review)},
            [interaction_id],
        )

    def waiting(self) -> tuple[int, int]:
        """Return how many entries wait in the outboxes, and how many the database has refused.

        Rankings that wait as they always do, for a moment, do not count.

        Raises:
            OutboxError: an outbox cannot be read.
        """
        (waiting, refused), (rankings, refused_rankings) = self._outbox.count(), self._rankings.count()
        oldest = self._rankings.oldest()
        if oldest is None or datetime.now(UTC) - oldest < _USUAL:
            rankings = 0
        return waiting + rankings, refused + refused_rankings

    def check(self) -> None:
        """Look whether the database can be used, and start to replay what waits from an earlier life.

        Raises:
            DatabaseError: it cannot.
        """
        self._start_replaying()
        self._bounded(ensure_schema)

    def reachable(self) -> bool:
        """Tell whether the database answers; while it does not, the replaying thread looks, and nobody waits for it."""
        self._start_replaying()
        if not self._away:
            try:
                self._look()
            except DatabaseError as error:
                logger.error("The database cannot be used: %s", error)
        return not self._away

    def close(self) -> None:
        """Stop replaying, and close the connections; what waits stays on disk."""
        self._stop.set()
        self._outbox.close()
        self._rankings.close()
        with self._lock:
            if self._engine is not None:
                self._engine.dispose()
            self._engine, self._ready = None, False

    def _do(
        self, kind: str, write: Callable[[], None], body: Callable[[], Mapping[str, Any]], names: Sequence[str]
    ) -> str:
        """Write now if it can be done, else put the body into the outbox; return why."""
        self._start_replaying()
        if self._down:
            # Only the replaying thread tries again: no question has to wait for that.
            reason = "the database cannot be used"
        elif kind == _RATING and self._mentioned(names[0]):
            # What it is about comes first, or an earlier rating that it replaces.
            reason = "it follows what waits already"
        else:
            try:
                write()
                self.loses = False
                return ""
            except DatabaseError as error:
                self._lost()
                logger.error("Recording goes to the outbox %s: %s", self._outbox.path, error)
                reason = "the database cannot be used"
            except LookupError:
                raise
            except Exception as error:
                # The database is there and says no. It is tried once more, and stays in the outbox with the reason.
                logger.error("Recording goes to the outbox %s: %r", self._outbox.path, error)
                reason = "the database refused it"
        try:
            self._outbox.put(kind, body(), interactions=names)
        except OutboxError:
            self.loses = True
            raise
        self.loses = False
        return reason

    def _look(self) -> None:
        try:
            self._bounded(ensure_schema)
        except DatabaseError:
            self._lost()
            # Not so where only writing fails, as to a full disk.
            self._away = True
            raise
        self._away = False

    def _lost(self) -> None:
        # What comes back may be another database: restored, or empty.
        self._down, self._ready = True, False

    def _mentioned(self, interaction_id: str) -> bool:
        ranking = ranking_of(interaction_id)
        self.settle(ranking)
        try:
            return self._outbox.mentions(interaction_id) or self._rankings.mentions(ranking)
        except OutboxError as error:
            logger.error("%s", error)
            return False

    def _write_with_others(self, answer: _AnswerEntry) -> None:
        """Write an answer, in one transaction with those that come while others are written."""
        done: Future[None] = Future()
        with self._lock:
            if self._group.process != os.getpid():
                self._group = _Group()
            group = self._group
            group.answers.append((answer, done))
            first, group.busy = not group.busy, True
        try:
            if first:
                start_thread(lambda: self._write_group(group), name="rlhf-recording")
            _awaited(done)
        except Exception:
            with self._lock:
                # Whoever comes next does not wait for a thread that hangs.
                if self._group is group:
                    self._group = _Group()
            raise

    def _write_group(self, group: _Group) -> None:
        while True:
            with self._lock:
                answers, group.answers = group.answers[:_BATCH], group.answers[_BATCH:]
                if not answers:
                    group.busy = False
                    return
            if len(answers) == 1 or not self._written_at_once(answers):
                for answer, done in answers:
                    try:
                        _write_answer(self._opened(), answer)
                    except Exception as error:
                        done.set_exception(error)
                    else:
                        done.set_result(None)

    def _written_at_once(self, answers: Sequence[tuple[_AnswerEntry, Future[None]]]) -> bool:
        """Write answers in one transaction; return False if the database is there and does not take one of them."""
        try:
            _write_once(self._opened(), *(answer for answer, _ in answers))
        except DatabaseError as error:
            for _, done in answers:
                done.set_exception(DatabaseError(str(error)))
        except Exception as error:
            logger.info("Answers are recorded one by one: %s", error)
            return False
        else:
            for _, done in answers:
                done.set_result(None)
        return True

    def _bounded(self, work: Callable[[Engine], _Result]) -> _Result:
        """Do the work in a thread of its own, and do not wait for ever: a database that hangs says nothing."""
        return _awaited(start_thread(lambda: work(self._opened()), name="rlhf-recording"))

    def _opened(self) -> Engine:
        with self._lock:
            if self._engine is None:
                self._engine = make_engine(self._settings.database_url, patience_s=PATIENCE_S, lasting=self._settings)
            engine = self._engine
        if not self._ready:
            ensure_schema(engine)
            self._ready = True
        return engine

    def _start_replaying(self) -> None:
        with self._lock:
            if self._replaying == os.getpid():
                return
            # By process: a fork inherits the note, but not the thread.
            self._replaying = os.getpid()
        threading.Thread(target=self._replay_for_ever, name="rlhf-replay", daemon=True).start()

    def _replay_for_ever(self) -> None:
        said = ""
        while not self._stop.is_set():
            try:
                self._replay()
                said = ""
            except RlhfLoopError as error:
                # Once for each reason, and not every two seconds.
                if said != (said := str(error)):
                    logger.warning("What waits in the outbox cannot be recorded yet: %s", error)
            except Exception:
                logger.exception("Replaying the outbox failed.")
            self._stop.wait(_LOOK_EVERY_S)

    def _replay(self, *, lock_s: float = 0) -> None:
        """Write what waits, in order; one process at a time does it."""
        if self._down:
            self._look()
            self._down = self.loses = False
            self._on_return()
        # Rankings depend on nothing, and the ratings of their documents on them.
        for outbox in (self._rankings, self._outbox):
            self._empty(outbox, lock_s)

    def _empty(self, outbox: Outbox, lock_s: float) -> None:
        if not outbox.waiting(limit=1):
            return
        replayed = 0
        with suppress(Timeout), FileLock(f"{outbox.path}.lock", timeout=lock_s):
            # Read under the lock: an older rating that another process has replayed must not come twice.
            while (entries := outbox.waiting(limit=_BATCH)) and not self._stop.is_set():
                if entries[0].kind == _RANKING and self._replay_rankings(entries):
                    continue
                for entry in entries:
                    if entry.kind == _RATING and self._rankings.mentions(ranking_of(entry.body["interaction"])):
                        # Another process has that ranking in its hands, or it has just come: next time.
                        return
                    replayed += self._replay_one(outbox, entry)
        if replayed:
            logger.info("%d entries of the outbox are in the database now.", replayed)

    def _replay_rankings(self, entries: Sequence[Entry]) -> bool:
        """Write rankings in one transaction; return False if one of them is there already, or cannot be stored."""
        try:
            self._bounded(lambda engine: _write_rankings(engine, entries))
        except DatabaseError:
            self._lost()
            raise
        except Exception as error:
            logger.info("Rankings are recorded one by one: %s", error)
            return False
        self._rankings.done(*entries)
        return True

    def _replay_one(self, outbox: Outbox, entry: Entry) -> int:
        try:
            self._bounded(lambda engine: _write_entry(engine, entry))
        except DatabaseError:
            self._lost()
            raise
        except LookupError as error:
            # Nobody knows the answer, so the rating says nothing; anybody could fill the outbox with such.
            logger.warning("A rating from the outbox is left out: %s", error)
        except Exception as error:
            # The database is there and says no: to try again would change nothing, and hold up the rest.
            logger.error("The outbox %s keeps entry %d, which the database refuses: %s", outbox.path, entry.id, error)
            outbox.refuse(entry, f"{type(error).__name__}: {error}")
            return 0
        outbox.done(entry)
        return 1


def _awaited(result: Future[_Result]) -> _Result:
    """Return what a thread that uses the database comes to.

    Raises:
        DatabaseError: it takes too long, or is interrupted.
    """
    # Twice as long: to find an old connection dead, and to open a new one.
    if not wait([result], timeout=2 * PATIENCE_S).done:
        raise DatabaseError(f"The database gave no answer within {2 * PATIENCE_S} s. Check that its server runs.")
    if (error := result.exception()) and not isinstance(error, Exception):
        raise DatabaseError(f"Writing to the database failed: {error!r}. The log says more.") from error
    return result.result()


def _write_entry(engine: Engine, entry: Entry) -> None:
    if entry.kind == _ANSWER:
        # An entry from before questions were counted has candidates only.
        served = ServingRecord(**_from_json(entry.body["served"])) if "served" in entry.body else None
        ratings = [Rating(**_from_json(values)) for values in entry.body["candidates"]]
        _write_answer(engine, _AnswerEntry(ratings, served))
    elif entry.kind == _RANKING:
        ranking = _ranking_from_json(entry.body)
        _write_answer(engine, _AnswerEntry(ranking.ratings, ranking.served))
    else:
        # One from before there were roles is of a visitor.
        values = {"role": ReviewerRole.END_USER, **_from_json(entry.body)}
        known = {each.name: values[each.name] for each in fields(Review) if each.name in values}
        # Earlier versions called the time of a review thus.
        known.setdefault("reviewed_at", values.get("rated_at"))
        known["role"] = ReviewerRole(known["role"])
        _write_review(engine, entry.body["interaction"], Review(**known))


def _write_answer(engine: Engine, answer: _AnswerEntry) -> None:
    try:
        _write_once(engine, answer)
    except ValueError:
        # Perhaps a first attempt did more than anybody heard of.
        there = interactions.ids(engine, [each.external_id for each in answer.ratings if each.external_id])
        if not there:
            raise
        rest = [each for each in answer.ratings if each.external_id not in there]
        _write_once(engine, _AnswerEntry(rest, answer.served))


def _write_once(engine: Engine, *answers: _AnswerEntry) -> None:
    with transaction(engine) as connection:
        interactions.put_interactions(connection, [rating for each in answers for rating in each.ratings])
        put_served(connection, *(each.served for each in answers if each.served is not None))


def _write_rankings(engine: Engine, entries: Sequence[Entry]) -> None:
    rankings = [_ranking_from_json(entry.body) for entry in entries]
    _write_once(engine, *(_AnswerEntry(each.ratings, each.served) for each in rankings))


def _write_review(engine: Engine, interaction_id: str, review: Review) -> None:
    key = interactions.ids(engine, [interaction_id]).get(interaction_id)
    if key is None:
        raise LookupError(
            f"There is no answer with the id {interaction_id!r}. Ask the question again, and rate the new answer."
        )
    with transaction(engine) as connection:
        interactions.put_review(connection, key, review)


def _ranking_to_json(ranking: RecordedRanking) -> dict[str, Any]:
    candidates = [
        {**_to_json(each.candidate), "position": each.position, "score": each.score} for each in ranking.candidates
    ]
    return {**_to_json(ranking), "candidates": candidates}


def _ranking_from_json(values: Mapping[str, Any]) -> RecordedRanking:
    candidates = []
    for rank, each in enumerate(values["candidates"], start=1):
        about = _from_json(each)
        position, score = about.pop("position"), about.pop("score")
        candidates.append(RankedCandidate(Candidate(**about), rank=rank, score=score, position=position))
    return RecordedRanking(**{**_from_json(values), "candidates": tuple(candidates)})


def _to_json(value: Rating | Review | ServingRecord | RecordedRanking | Candidate) -> dict[str, Any]:
    """Return the fields that are set, as JSON has them."""
    values = {name: each for name, each in field_values(value).items() if each is not None}
    return {name: each.isoformat() if isinstance(each, datetime) else each for name, each in values.items()}


def _from_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return such fields with their times; all of these have names that end alike."""
    times = {name: datetime.fromisoformat(value) for name, value in values.items() if name.endswith("_at")}
    return {**values, **times}
