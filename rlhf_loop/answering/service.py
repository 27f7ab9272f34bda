"""The question-answering service: gather, draft, rank, record. It knows no web framework.

What is kept of an answered question: its candidates, each of which can be rated, and how it was served.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import monotonic, perf_counter
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from rlhf_loop.answering import experiments
from rlhf_loop.answering.best_of import BestOf
from rlhf_loop.answering.drafting import Drafter, Drafts, quote
from rlhf_loop.answering.experiments import Experiment, Order
from rlhf_loop.answering.gathering import PREPARING_S, Gatherer, SourceResults
from rlhf_loop.config import Settings
from rlhf_loop.domain import (
    Answer,
    Candidate,
    RankedAnswer,
    RankedCandidate,
    Ranking,
    Rating,
    RecordedRanking,
    Review,
    Scale,
    ServingRecord,
    field_values,
    prompt_key,
)
from rlhf_loop.errors import ConfigError, EncoderError, OutboxError, RlhfLoopError
from rlhf_loop.ranking import Ranker, incoming_order, is_off, is_prior, to_record
from rlhf_loop.sources.source import Source
from rlhf_loop.store.engine import FILE_COPY, lost_file
from rlhf_loop.store.recording import Recorder
from rlhf_loop.utils.concurrency import start_thread
from rlhf_loop.utils.languages import language_named
from rlhf_loop.utils.text import blank, unstorable
from rlhf_loop.utils.tracing import stage

if TYPE_CHECKING:
    from rlhf_loop.encoders import TextEncoder
    from rlhf_loop.encoders.shared_vectors import SharedVectors


# In place of a reason that quotes the question.
_QUOTES = "the reason quotes the question, so only the log has it"
#: Reasons are cut off, and then so is the question in them.
_ENOUGH_CHARS = 40


def recorded_answers(
    query: str, answers: Sequence[RankedAnswer], *, group: str, model_version: str | None, now: datetime
) -> list[Rating]:
    """Return the candidates in the order in which they are served; their rank is that in which they came."""
    return [
        Rating(
            user_prompt=query,
            ai_response=answer.text,
            candidate_group=group,
            shown_rank=answer.ranked.position + 1,
            score=answer.score,
            model_version=model_version,
            external_id=answer.interaction_id,
            created_at=now,
            **field_values(answer.origin),
        )
        for answer in answers
    ]


def served_as(
    query: str,
    answers: Sequence[RankedAnswer],
    order: Order,
    *,
    group: str,
    model_version: str | None,
    degraded: Mapping[str, str],
    timings: Mapping[str, float],
    now: datetime,
) -> ServingRecord:
    """Return the serving record of the question; nothing of what was asked is in it."""
    names = [answer.interaction_id for answer in answers]
    troubles = {**degraded, "experiment": order.trouble} if order.trouble else degraded
    return ServingRecord(
        candidate_group=group,
        served_at=now,
        policy=order.policy,
        propensity=order.propensity,
        experiment=order.experiment,
        model_version=model_version,
        first_id=names[0] if names else None,
        teams=dict(zip(names, order.teams, strict=True)) if order.teams else {},
        degraded={name: _without(query, reason) for name, reason in troubles.items()},
        timings=timings,
    )


def _without(query: str, reason: str) -> str:
    """Return the reason as it may be kept: a source may say what it was asked, be it in an address."""
    return _QUOTES if prompt_key(query)[:_ENOUGH_CHARS] in prompt_key(unquote_plus(reason)) else reason


logger = logging.getLogger(__name__)

MAX_QUERY_CHARS = 4000
#: How the names of candidate groups begin that this service made.
ANSWERED = "question:"
# What whoever asked is told; the log has the reason, with paths and names in it.
_INCOMING_ORDER = "it cannot be used, so the candidates keep their incoming order; the log says why"
_SWITCHED_OFF = "it is switched off, so the candidates keep their incoming order"
_AWAY = "it does not answer; the log says why"
_SILENT = "none can be asked now, so that no question is answered"
_NOT_RECORDED = "not recorded, so it cannot be rated; the log says why"
#: Seconds after which weights that were missing are looked for again.
_LOOK_AGAIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Readiness:
    """The readiness to answer questions well, and the state of each part in words."""

    ready: bool
    checks: Mapping[str, str]

    @property
    def ranks(self) -> bool:
        """True if candidates of others can be ranked, whatever the sources and the database do."""
        return self.checks.get("encoder") == "ok"


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts that are expensive to load.

    `trouble` says why there is no encoder; then nothing is ranked, and no index searched. `prepared` ends when the
    sources have done what they do before the first question.
    """

    gatherer: Gatherer
    prepared: Future[None]
    ranker: Ranker | None
    experiment: Experiment
    drafter: Drafter | None
    best_of: BestOf | None
    trouble: str
    loaded_at: float

    def wait(self) -> None:
        """Wait for the sources to be prepared, all questions together no longer than `PREPARING_S`."""
        wait([self.prepared], timeout=max(0.0, self.loaded_at + PREPARING_S - monotonic()))


class AnswerService:
    """Answers questions from its sources, the best candidate first. Safe to share between threads.

    It is light until the first question or `warm_up`. `sources` stand in for those that the settings choose.
    """

    def __init__(
        self, settings: Settings, *, sources: Sequence[Source] | None = None, encoder: TextEncoder | None = None
    ) -> None:
        self._settings = settings
        self._sources = sources
        self._encoder = encoder
        self._recorder = Recorder(settings, on_return=self._ask_again)
        self._lock = threading.Lock()
        self._parts: _Parts | None = None
        self._warm = False

    def check(self) -> None:
        """Say at once what would go wrong with each question: a source or a model that cannot be had.

        Raises:
            ConfigError, MissingExtraError: the settings name it.
        """
        end_user_scale(self._settings)
        experiments.check(self._settings)
        from rlhf_loop.encoders.shared_vectors import open_shared
        from rlhf_loop.sources import sources_from
        from rlhf_loop.sources.index import open_store

        open_shared(self._settings)
        names = self._settings.sources
        sources_from(replace(self._settings, sources=tuple(name for name in names if name != "index")), encoder=None)
        if "index" in names:
            open_store(self._settings)
        if self._settings.llm_url:
            Drafter(self._settings).close()
            BestOf(self._settings).close()

    def answer(self, query: str) -> Answer:
        """Return the candidates best first, each recorded under its `interaction_id`.

        Whatever fails on the way is named in `degraded` and costs only its own part.

        Raises:
            ValueError: the query is not a text, empty, or too long; the message is for whoever asked.
            ConfigError, MissingExtraError: a source or the language model that the settings name cannot be had.
        """
        query = checked_query(query)
        timings: dict[str, float] = {}
        started = perf_counter()
        with stage(timings, "total"):
            parts = self._loaded()
            parts.wait()
            with stage(timings, "sources"):
                gathered = parts.gatherer.gather(query)
            timings |= {f"source:{name}": taken for name, taken in gathered.timings.items()}
            degraded = dict(gathered.degraded)
            drafts = self._drafted(parts, query, gathered, timings)
            if drafts.trouble:
                degraded["drafts"] = drafts.trouble
            with stage(timings, "ranking"):
                ranking = _ranked(parts, query, drafts.candidates, degraded)
                order = parts.experiment.order(query, drafts.candidates, ranking)
                certain = self._certain(ranking)
                related = _related(parts, query, drafts.candidates) if certain is False else None
            answers = tuple(RankedAnswer(ranked=each, interaction_id=uuid.uuid4().hex) for each in order.candidates)
            with stage(timings, "recording"):
                so_far = {**timings, "total": 1000 * (perf_counter() - started)}
                self._record(query, answers, order, ranking.model_version, degraded, so_far)
        return Answer(
            query=query,
            ranked=answers,
            model_version=ranking.model_version,
            degraded=degraded,
            timings=_rounded(timings),
            policy=order.policy,
            certain=certain,
            related=related,
        )

    def rate(self, interaction_id: str, review: Review) -> bool:
        """Keep a review of an answer; return False if it waits for the database.

        Raises:
            ValueError: it cannot be stored.
            LookupError: there is no such answer.
            OutboxError: neither the database nor the outbox can take it.
        """
        return self._recorder.rate(interaction_id, review)

    def warm_up(self) -> None:
        """Load the encoder, the model and the index, so that the first question need not wait.

        What cannot be loaded is logged and named by `readiness`.
        """
        try:
            parts = self._loaded()
            if parts.ranker is not None:
                ranked = parts.ranker.ranking("Is it warm?", [Candidate("It is."), Candidate("Not yet.")])
                logger.info("Warm, with the reward model: %s.", ranked.model_version or "none yet")
            parts.experiment.state()
            parts.prepared.result()
            self._recorder.check()
        except RlhfLoopError as error:
            logger.error("Warming up: %s", error)
        finally:
            self._warm = True

    def record_ranking(
        self,
        query: str,
        ranked: Iterable[RankedCandidate],
        *,
        model_version: str | None,
        door: str,
        caller: str | None = None,
        returned: int | None = None,
        most: int | None = None,
    ) -> RecordedRanking | None:
        """Record a ranking that came by another door; return it with the ids by which it can be rated.

        `ranked` is best first, `door` an address or name, `caller` the user whose token it was, `returned` how many
        went back, `most` how many are kept, by default as many as the settings say. The database has it soon. None says
        that it is not recorded: the outbox is full, or there is nothing in it that can be stored.
        """
        ranking = to_record(
            query,
            ranked,
            model_version=model_version,
            door=door,
            most=most or self._settings.record_documents,
            caller=caller,
            returned=returned,
        )
        return ranking if ranking is not None and self._recorder.record_ranking(ranking) else None

    def settle(self, ranking: str) -> None:
        """Have a recorded ranking that still waits for the database written now, if it can be."""
        self._recorder.settle(ranking)

    def ranker(self) -> Ranker | None:
        """Return what ranks here, for others who score answers; None while the encoder cannot be loaded.

        Raises:
            ConfigError, MissingExtraError: the settings name what cannot be had.
        """
        return self._loaded().ranker

    def best_of(self) -> BestOf | None:
        """Return what draws drafts for a chat; None without a language model.

        Raises:
            ConfigError, MissingExtraError: the settings name what cannot be had.
        """
        return self._loaded().best_of

    def serving(self) -> str | None:
        """Return the version of the model that ranks here, None without one, or before anything is loaded.

        Raises:
            ModelFileError: there is a model file that cannot be trusted, and no good one was loaded before.
        """
        parts = self._parts
        return parts.ranker.model_version if parts is not None and parts.ranker is not None else None

    def switched_off(self) -> bool:
        """Tell whether the model is switched off (`rlhf-loop models off`)."""
        return is_off(self._settings.model_path)

    def shared_lookups(self) -> Mapping[str, int]:
        """Return what the lookups in the shared vector cache came to since this was last asked."""
        shared = self._shared()
        return shared.take_counts() if shared else {}

    def waiting(self) -> tuple[int, int]:
        """Return how many answers and ratings wait for the database, and how many it has refused.

        Raises:
            OutboxError: the outbox cannot be read.
        """
        return self._recorder.waiting()

    def readiness(self) -> Readiness:
        """Tell whether questions can be answered; what is only degraded is named, and does no harm to `ready`."""
        if not self._warm or (parts := self._parts) is None:
            return Readiness(False, {"service": "warming up"})
        model = _SWITCHED_OFF if self.switched_off() else _model_state(parts)
        checks = {"encoder": parts.trouble or "ok", "model": model}
        checks |= {f"source:{name}": f"paused for {rest:.0f} s" for name, rest in parts.gatherer.resting().items()}
        if nowhere := self._absent_index():
            checks["source:index"] = nowhere
        if compared := parts.experiment.state():
            checks["experiment"] = compared
        if shared := self._shared():
            checks["shared cache"] = shared.state() or "ok"
        checks["recording"] = self._recording_state()
        lost = lost_file(self._settings)
        away = lost not in ("", FILE_COPY) or not self._recorder.reachable()
        if lost or away:
            checks["database"] = lost or _AWAY
        if away and checks["recording"] == "ok":
            checks["recording"] = "what comes waits in the outbox until the database is back"
        if silent := parts.gatherer.silent(without_database=away):
            checks["sources"] = _SILENT
        # Questions are answered while a database is away, if there is a source without it; a file that is gone does
        # not come back by itself. Rankings for everybody need neither.
        answers = not silent or self._settings.rerank_public
        return Readiness(not parts.trouble and answers and lost in ("", FILE_COPY), checks)

    def close(self) -> None:
        """Close what is open. What waits in the outbox stays there for the next start."""
        self._recorder.close()
        if self._parts is not None:
            # What a source opens after it was closed would stay open.
            self._parts.wait()
            self._parts.gatherer.close()
            if self._parts.drafter is not None:
                self._parts.drafter.close()
            if self._parts.best_of is not None:
                self._parts.best_of.close()

    def _loaded(self) -> _Parts:
        with self._lock:
            parts = self._parts
            if parts is None or (parts.trouble and monotonic() - parts.loaded_at > _LOOK_AGAIN_S):
                self._parts = parts = self._load()
            return parts

    def _ask_again(self) -> None:
        if self._parts is not None:
            self._parts.gatherer.ask_again()

    def _shared(self) -> SharedVectors | None:
        parts = self._parts
        encoder = parts.ranker.encoder if parts is not None and parts.ranker is not None else None
        return encoder.shared if encoder is not None else None

    def _absent_index(self) -> str:
        from rlhf_loop.sources.index import absent_index

        return absent_index(self._settings) if self._sources is None and "index" in self._settings.sources else ""

    def _load(self) -> _Parts:
        # Imported here: whoever only makes a service need not wait for numpy and ONNX Runtime.
        from rlhf_loop.encoders import load_encoder
        from rlhf_loop.sources import checked_sources, sources_from

        settings, trouble = self._settings, ""
        encoder = self._encoder
        if encoder is None:
            try:
                # Nobody waits for a download with a question; and no host is asked that the settings do not name.
                encoder = load_encoder(settings, download=False, serving=True)
            except EncoderError as error:
                logger.error("Nothing can be ranked: %s", error)
                trouble = "it cannot be loaded; the log says why"
                settings = replace(settings, sources=tuple(name for name in settings.sources if name != "index"))
        sources = sources_from(settings, encoder=encoder) if self._sources is None else checked_sources(self._sources)
        if nowhere := self._absent_index():
            logger.warning("The source index finds nothing: %s.", nowhere)
        gatherer = Gatherer(
            sources,
            deadline_s=settings.source_deadline_s,
            limit=settings.candidates_per_source,
            language=language_named(settings.language),
        )
        return _Parts(
            gatherer=gatherer,
            prepared=start_thread(gatherer.warm_up, name="rlhf-prepare"),
            ranker=Ranker(settings, encoder=encoder) if encoder is not None else None,
            experiment=Experiment(settings, encoder=encoder),
            drafter=Drafter(settings) if settings.llm_url else None,
            best_of=BestOf(settings) if settings.llm_url else None,
            trouble=trouble,
            loaded_at=monotonic(),
        )

    def _drafted(self, parts: _Parts, query: str, gathered: SourceResults, timings: dict[str, float]) -> Drafts:
        if parts.drafter is None:
            return Drafts(quote(gathered.passages))
        with stage(timings, "drafts"):
            return parts.drafter.draft(query, gathered.passages)

    def _certain(self, ranking: Ranking) -> bool | None:
        least = self._settings.answer_threshold
        scores = [each.score for each in ranking.candidates if each.score is not None]
        if not least or not scores or is_prior(ranking.model_version):
            return None
        return max(scores) >= least

    def _record(
        self,
        query: str,
        answers: Sequence[RankedAnswer],
        order: Order,
        model_version: str | None,
        degraded: dict[str, str],
        timings: Mapping[str, float],
    ) -> None:
        group, now = f"{ANSWERED}{uuid.uuid4().hex}", datetime.now(UTC)
        ratings = recorded_answers(query, answers, group=group, model_version=model_version, now=now)
        served = served_as(
            query,
            answers,
            order,
            group=group,
            model_version=model_version,
            degraded=degraded,
            timings=_rounded(timings),
            now=now,
        )
        trouble = self._recorded(ratings, served)
        # Where nothing was found there is nothing to rate, and whoever asked misses nothing.
        if trouble and ratings:
            degraded["recording"] = trouble

    def _recorded(self, ratings: Sequence[Rating], served: ServingRecord) -> str:
        """Record, and say what is wrong with that; an empty text if nothing is."""
        try:
            reason = self._recorder.record(ratings, served)
        except OutboxError as error:
            logger.error("An answer is not recorded: %s", error)
            return _NOT_RECORDED
        except Exception:
            logger.exception("An answer is not recorded.")
            return _NOT_RECORDED
        return f"waits in the outbox: {reason}" if reason else ""

    def _recording_state(self) -> str:
        try:
            waiting, refused = self._recorder.waiting()
        except OutboxError as error:
            logger.error("%s", error)
            return "the outbox cannot be used; the log says why"
        aside = f", {refused} refused by the database" if refused else ""
        found = [f"{waiting} waiting in the outbox{aside}"] if waiting or refused else []
        found += ["what came last could not be recorded; the log says why"] if self._recorder.loses else []
        return "; ".join(found) or "ok"


def end_user_scale(settings: Settings) -> Scale:
    """Tell how end users rate.

    Raises:
        ConfigError: the settings name a scale that there is not.
    """
    try:
        return Scale(settings.end_user_scale)
    except ValueError:
        raise ConfigError(
            f"RLHF_END_USER_SCALE={settings.end_user_scale!r} is not a valid scale. Choose from: {', '.join(Scale)}."
        ) from None


def checked_query(query: object) -> str:
    """Return the question without white space around it.

    Raises:
        ValueError: it is not a text, empty, too long, or holds what cannot be stored.
    """
    if not isinstance(query, str):
        raise ValueError(f"The query must be a text, but it is a {type(query).__name__}. Send the user's question.")
    if len(query) > MAX_QUERY_CHARS:
        raise ValueError(
            f"The query has {len(query):,} characters; at most {MAX_QUERY_CHARS:,} are read. Shorten the question."
        )
    if found := unstorable(query):
        raise ValueError(
            f"The query holds the character {found.group()!a} at position {found.start()}, which cannot be stored. "
            "Send the question as plain text."
        )
    if blank(query):
        raise ValueError("The query is empty. Send the user's question.")
    return query.strip()


def _related(parts: _Parts, query: str, candidates: Sequence[Candidate]) -> bool | None:
    """Tell whether any candidate has to do with the question; None if that cannot be told."""
    try:
        return parts.ranker.related(query, candidates) if parts.ranker is not None else None
    except RlhfLoopError as error:
        logger.error("Nobody knows whether an answer has to do with its question: %s", error)
        return None


def _ranked(parts: _Parts, query: str, candidates: Sequence[Candidate], degraded: dict[str, str]) -> Ranking:
    """Rank, or keep the incoming order and say why."""
    try:
        if parts.ranker is not None:
            ranking = parts.ranker.ranking(query, candidates)
            if ranking.model_version is None and parts.ranker.off:
                degraded["model"] = _SWITCHED_OFF
            return ranking
    except RlhfLoopError as error:
        logger.error("The candidates keep their incoming order: %s", error)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # a panic of a library written in Rust is no Exception
        logger.exception("The candidates keep their incoming order.")
    degraded["model"] = _INCOMING_ORDER
    return Ranking(tuple(incoming_order(candidates)), None)


def _rounded(timings: Mapping[str, float]) -> dict[str, float]:
    return {name: round(taken, 3) for name, taken in timings.items()}


def _model_state(parts: _Parts) -> str:
    try:
        version = parts.ranker.model_version if parts.ranker else None
    except RlhfLoopError as error:
        logger.error("%s", error)
        return "it cannot be used; the log says why"
    if is_prior(version):
        return f"{version}: nothing is learnt from ratings yet, and scores are not calibrated"
    return version or "none: candidates keep their incoming order"
