"""`/metrics` for Prometheus: what all processes of the server have counted, and what the database says now.

The processes count together, in files below PROMETHEUS_MULTIPROC_DIR that each can add up; without it, as in an
application with one process, they count in memory. The registry is our own, so that an application that embeds the
blueprint keeps its metrics apart.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from time import monotonic, perf_counter
from typing import Generic, TypeVar

from flask import Request, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy.engine import Engine

from rlhf_loop.accounts import tokens
from rlhf_loop.answering import AnswerService
from rlhf_loop.config import Settings
from rlhf_loop.domain import Answer, ReviewerRole
from rlhf_loop.errors import DatabaseError, RlhfLoopError
from rlhf_loop.monitoring.gauges import Gauges, count_answers, read_gauges
from rlhf_loop.store.engine import hurried
from rlhf_loop.utils.concurrency import start_thread
from rlhf_loop.version import __version__
from rlhf_loop.web import logs
from rlhf_loop.web.api.openapi import Api, Content, problems
from rlhf_loop.web.guard import Guard
from rlhf_loop.web.process import Database

logger = logging.getLogger(__name__)


class Kind(StrEnum):
    """Kinds of metrics, as Prometheus calls them."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """A metric; `buckets` are the upper ends of those of a histogram."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


#: From a file that is there to an answer with drafts that took all the time it had.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_TENTHS = tuple(tenth / 10 for tenth in range(1, 10))

HTTP_REQUESTS = MetricInfo(
    "rlhf_http_requests_total",
    Kind.COUNTER,
    "Requests, by the route's template; what no route knows is 'other'.",
    ("method", "route", "status"),
)
HTTP_SECONDS = MetricInfo(
    "rlhf_http_request_seconds", Kind.HISTOGRAM, "How long requests took.", ("route",), buckets=_SECONDS
)
ANSWERS = MetricInfo(
    "rlhf_answers_total",
    Kind.COUNTER,
    "Questions answered, by what ordered the answers, and whether anything was found.",
    ("policy", "result"),
)
STAGE_SECONDS = MetricInfo(
    "rlhf_answer_stage_seconds",
    Kind.HISTOGRAM,
    "How long each stage of an answer took, each source as 'source:NAME', all of it as 'total'.",
    ("stage",),
    buckets=_SECONDS,
)
SOURCE_FAILURES = MetricInfo(
    "rlhf_source_failures_total", Kind.COUNTER, "Questions that a source failed, or was paused for.", ("source",)
)
DEGRADED = MetricInfo(
    "rlhf_degraded_total", Kind.COUNTER, "Questions answered without a part other than a source.", ("part",)
)
TOP_SCORE = MetricInfo(
    "rlhf_top_score", Kind.HISTOGRAM, "Score of the answer that came first, where a model scored it.", buckets=_TENTHS
)
RATINGS = MetricInfo(
    "rlhf_ratings_total",
    Kind.COUNTER,
    "Ratings taken over HTTP, changed ones too, by the role of the reviewer.",
    ("role",),
)
RANKINGS = MetricInfo(
    "rlhf_recorded_rankings_total",
    Kind.COUNTER,
    "Rankings that were to be recorded, by the way in; those for which there was no room are 'dropped'.",
    ("door", "result"),
)
SHARED_VECTORS = MetricInfo(
    "rlhf_shared_vectors_total",
    Kind.COUNTER,
    "Texts looked up in the shared vector cache, by what came of it, and vectors written to it or dropped.",
    ("result",),
)
WORKERS = MetricInfo("rlhf_workers", Kind.GAUGE, "Processes that answer.")
MODEL = MetricInfo(
    "rlhf_model_info", Kind.GAUGE, "1 for each version of the model that a process serves now.", ("version",)
)
MODEL_OFF = MetricInfo("rlhf_model_off", Kind.GAUGE, "1 while the model is switched off, so that nothing ranks.")
BUILD = MetricInfo("rlhf_build_info", Kind.GAUGE, "1 for the version of RLHF Loop.", ("version",))
OUTBOX_WAITING = MetricInfo("rlhf_outbox_waiting", Kind.GAUGE, "Answers and ratings that wait for the database.")
OUTBOX_REFUSED = MetricInfo("rlhf_outbox_refused", Kind.GAUGE, "Those that the database has refused for good.")
DATABASE_UP = MetricInfo(
    "rlhf_database_up", Kind.GAUGE, "Whether the database answers; without it, what comes from it is left out."
)
INTERACTIONS = MetricInfo(
    "rlhf_interactions", Kind.GAUGE, "Recorded answers, rated by an expert or waiting for one.", ("state",)
)
ALARMS = MetricInfo("rlhf_alarms_open", Kind.GAUGE, "Alarms that are open.", ("kind",))
TRAININGS = MetricInfo("rlhf_training_runs_total", Kind.COUNTER, "Trainings that have ended, by how.", ("status",))
TRAINING = MetricInfo("rlhf_training_running", Kind.GAUGE, "Trainings that run now.")
LIVE_MODEL = MetricInfo(
    "rlhf_live_model_info", Kind.GAUGE, "1 for the version that is live by the registry.", ("version",)
)
PROMOTED = MetricInfo(
    "rlhf_model_promoted_timestamp_seconds", Kind.GAUGE, "When the live version became live, in Unix time."
)
ACCURACY = MetricInfo(
    "rlhf_live_model_accuracy", Kind.GAUGE, "Accuracy of the live version, on questions it was not fitted on."
)
AUC = MetricInfo("rlhf_live_model_auc", Kind.GAUGE, "The same for its AUC.")
BACKUP = MetricInfo("rlhf_backup_timestamp_seconds", Kind.GAUGE, "When the last backup was made, in Unix time.")

#: Counted by each process itself.
COUNTED = (
    HTTP_REQUESTS,
    HTTP_SECONDS,
    ANSWERS,
    STAGE_SECONDS,
    SOURCE_FAILURES,
    DEGRADED,
    TOP_SCORE,
    RATINGS,
    RANKINGS,
    SHARED_VECTORS,
    WORKERS,
    MODEL,
)
#: Looked up with each request for the metrics.
LOOKED_UP = (
    MODEL_OFF,
    BUILD,
    OUTBOX_WAITING,
    OUTBOX_REFUSED,
    DATABASE_UP,
    INTERACTIONS,
    ALARMS,
    TRAININGS,
    TRAINING,
    LIVE_MODEL,
    PROMOTED,
    ACCURACY,
    AUC,
    BACKUP,
)
CATALOGUE = (*COUNTED, *LOOKED_UP)

#: Of a route or method that nobody has planned: what a client makes up must not become a name.
OTHER = "other"
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
#: What one of these names is part of is one of ours.
_OURS = frozenset(info.name.removesuffix("_total") for info in COUNTED)

_Found = TypeVar("_Found")

#: Seconds for which what the database said is good, or that it did not answer; to count answers takes it longer.
_GOOD_S, _ANSWERS_GOOD_S = 15.0, 60.0
#: What takes long stays for so many times as long.
_TIMES_ITS_WORK = 20
#: Seconds that a look waits for a lock of others.
_PATIENCE_S = 1.0


def add_routes(
    api: Api, settings: Settings, service: AnswerService, database: Database, guard: Guard, counts: Instruments
) -> None:
    """Add the route."""
    counts.watch(service.shared_lookups)
    scrape = _Scrape(counts, service, database)
    words = {403: "The token does not have the scope metrics:read.", 503: "The database does not say whose token."}
    text = Content("In Prometheus's text format.", schema={"type": "string"}, media_type="text/plain")

    @api.route(
        "GET /metrics",
        "measure",
        replies={200: text, **problems(401, 403, 429, 500, 503, words=words)},
        scope=tokens.METRICS,
        without_token=True,
    )
    def metrics() -> Response:
        """Metrics for a monitoring system.

        For whoever asks on the server's own machine; others need a token, unless it is for everybody here
        (`RLHF_METRICS_PUBLIC`).
        """
        if not settings.metrics_public and not guard.from_this_machine():
            guard.bearer(tokens.METRICS)
        return Response(generate_latest(scrape), content_type=CONTENT_TYPE_PLAIN_0_0_4)


class Instruments:
    """The counters of one process: requests, answers, ratings, the served model. Safe to share between threads."""

    def __init__(self) -> None:
        if _FOLDER in os.environ and not getattr(values.ValueClass, "_multiprocess", False):
            # Somebody's source may have imported the library before it was told of the files.
            values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._requests = self._counter(HTTP_REQUESTS)
        self._request_seconds = self._histogram(HTTP_SECONDS)
        self._answers = self._counter(ANSWERS)
        self._stage_seconds = self._histogram(STAGE_SECONDS)
        self._source_failures = self._counter(SOURCE_FAILURES)
        self._degraded = self._counter(DEGRADED)
        self._top_score = self._histogram(TOP_SCORE)
        self._ratings = self._counter(RATINGS)
        self._rankings = self._counter(RANKINGS)
        self._shared_vectors = self._counter(SHARED_VECTORS)
        self._shared_lookups: Callable[[], Mapping[str, int]] = dict
        # Of processes that died, the library forgets gauges whose mode begins with "live".
        workers, model = WORKERS, MODEL
        self._workers = Gauge(workers.name, workers.help, registry=self._registry, multiprocess_mode="livesum")
        self._model = Gauge(model.name, model.help, model.labels, registry=self._registry, multiprocess_mode="livemax")
        self._lock = threading.Lock()
        self._version: str | None = None
        # From the first one on, a rate needs a zero before it.
        for role in ReviewerRole:
            self._ratings.labels(str(role))
        for part in ("model", "drafts", "recording"):
            self._degraded.labels(part)
        self._workers.set(1)

    def count(self, request: Request, response: Response) -> Response:
        """Count a request that is answered, once, with what its notes say of it."""
        notes = logs.begin(request)
        if not notes.counted:
            notes.counted = True
            route = request.url_rule.rule if request.url_rule else OTHER
            method = request.method if request.method in _METHODS else OTHER
            self._requests.labels(method, route, str(response.status_code)).inc()
            self._request_seconds.labels(route).observe(perf_counter() - notes.started)
            for result, number in self._shared_lookups().items():
                self._shared_vectors.labels(result).inc(number)
            if response.status_code < 400:
                self._count_work(notes.answer, notes.ratings)
                if notes.recorded is not None:
                    door, id = notes.recorded
                    self._rankings.labels(door, "dropped" if id is None else "recorded").inc()
        return response

    def watch(self, shared_lookups: Callable[[], Mapping[str, int]]) -> None:
        """Count with each request what that returns, too: results of lookups in the shared vector cache."""
        self._shared_lookups = shared_lookups

    def serves(self, version: str | None) -> None:
        """Note which version of the model this process serves; None for none."""
        with self._lock:
            if version == self._version:
                return
            # To remove a label is more than the files can do.
            if self._version is not None:
                self._model.labels(self._version).set(0)
            if version is not None:
                self._model.labels(version).set(1)
            self._version = version

    def collect(self) -> Iterable[Metric]:
        """Return what all processes have counted, as the library has it."""
        folder = os.environ.get(_FOLDER)
        for metric in _merged(Path(folder)) if folder else self._registry.collect():
            if metric.name not in _OURS:
                # In somebody's application with several processes, the files have its metrics, too.
                continue
            metric.samples = [
                sample
                for sample in metric.samples
                if not sample.name.endswith("_created") and (metric.name != MODEL.name or sample.value)
            ]
            yield metric

    def _count_work(self, answer: Answer | None, ratings: Iterable[ReviewerRole]) -> None:
        for role in ratings:
            self._ratings.labels(str(role)).inc()
        if answer is None:
            return
        self._answers.labels(answer.policy, "found" if answer.ranked else "nothing").inc()
        for stage, milliseconds in answer.timings.items():
            self._stage_seconds.labels(stage).observe(milliseconds / 1000)
        for part in answer.degraded:
            if f"source:{part}" in answer.timings:
                self._source_failures.labels(part).inc()
            else:
                self._degraded.labels(part).inc()
        if answer.best is not None and answer.best.score is not None:
            self._top_score.observe(answer.best.score)

    def _counter(self, info: MetricInfo) -> Counter:
        return Counter(info.name, info.help, info.labels, registry=self._registry)

    def _histogram(self, info: MetricInfo) -> Histogram:
        return Histogram(info.name, info.help, info.labels, registry=self._registry, buckets=info.buckets)


def _merged(folder: Path) -> Iterable[Metric]:
    files = [str(file) for file in folder.glob("*.db") if _begun(file)]
    merged: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
    return merged


def _begun(file: Path) -> bool:
    # A process that has just started may have a file with nothing in it yet, which the library could not read.
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:
        # Of a process that has just died.
        return False


class _Scrape(Collector):
    """All metrics of the catalogue that can be had now."""

    def __init__(self, counts: Instruments, service: AnswerService, database: Database) -> None:
        self._counts, self._service, self._database = counts, service, database
        self._gauges = _CachedReading(lambda: read_gauges(self._engine()), _GOOD_S)
        self._answers = _CachedReading(
            lambda: count_answers(self._engine()), _ANSWERS_GOOD_S, patience_s=_PATIENCE_S / 4
        )

    def collect(self) -> Iterator[Metric]:
        try:
            self._counts.serves(self._service.serving())
        except RlhfLoopError as error:
            logger.warning("The served model is unknown: %s", error)
        yield from self._counts.collect()
        yield _gauge(MODEL_OFF, {(): int(self._service.switched_off())})
        yield _gauge(BUILD, {(__version__,): 1})
        yield from self._outbox()
        yield from self._of_the_database()

    def _outbox(self) -> Iterator[Metric]:
        try:
            waiting, refused = self._service.waiting()
        except RlhfLoopError as error:
            logger.warning("The outbox cannot be counted: %s", error)
            return
        yield _gauge(OUTBOX_WAITING, {(): waiting})
        yield _gauge(OUTBOX_REFUSED, {(): refused})

    def _of_the_database(self) -> Iterator[Metric]:
        try:
            found, counted = self._gauges.get(), self._answers.get()
        except DatabaseError as error:
            logger.warning("Metrics of the database are left out: %s", error)
            self._database.doubt()
            yield _gauge(DATABASE_UP, {(): 0})
            return
        yield _gauge(DATABASE_UP, {(): 1})
        yield _gauge(INTERACTIONS, {("rated",): counted.rated, ("waiting",): counted.waiting})
        yield from _of_the_loop(found)

    def _engine(self) -> Engine:
        return hurried(self._database.engine(), _PATIENCE_S)


class _CachedReading(Generic[_Found]):
    """A value that is read at most once in so many seconds, also where that fails. Safe to share between threads.

    One that takes long stays for as many times as long. With `patience_s` nobody waits longer for a new one while there
    is an old one, which is then at most as old as the time between two who ask.
    """

    def __init__(self, ask: Callable[[], _Found], good_s: float, *, patience_s: float | None = None) -> None:
        self._ask, self._good_s, self._patience_s = ask, good_s, patience_s
        self._lock = threading.Lock()
        self._until = -1.0
        self._found: _Found | None = None
        self._error: DatabaseError | None = None
        self._reading: Future[None] | None = None

    def get(self) -> _Found:
        """Return it.

        Raises:
            DatabaseError: the database did not answer, now or a moment ago.
        """
        with self._lock:
            if monotonic() >= self._until and self._reading is None:
                self._reading = start_thread(self._read, name="rlhf-metrics")
            if self._reading is not None:
                read = self._reading
                if wait([read], timeout=None if self._found is None else self._patience_s).done:
                    self._reading = None
                    read.result()
            if self._error is not None:
                raise self._error
            assert self._found is not None
            return self._found

    def _read(self) -> None:
        began = monotonic()
        try:
            self._found, self._error = self._ask(), None
            now = monotonic()
            self._until = now + max(self._good_s, _TIMES_ITS_WORK * (now - began))
        except DatabaseError as error:
            self._found, self._error = None, error
            self._until = monotonic() + _GOOD_S


def _of_the_loop(found: Gauges) -> Iterator[Metric]:
    yield _gauge(ALARMS, {(str(kind),): count for kind, count in found.alarms.items()})
    ended = CounterMetricFamily(TRAININGS.name, TRAININGS.help, labels=list(TRAININGS.labels))
    for status, count in found.trainings.items():
        if status != "running":
            ended.add_metric([status], count)
    yield ended
    yield _gauge(TRAINING, {(): found.trainings["running"]})
    if found.live is not None:
        yield _gauge(LIVE_MODEL, {(found.live,): 1})
    measured = ((ACCURACY, found.accuracy), (AUC, found.auc))
    for info, value in ((PROMOTED, found.promoted_at), *measured, (BACKUP, found.backup_at)):
        if value is not None:
            yield _gauge(info, {(): value.timestamp() if isinstance(value, datetime) else value})


def _gauge(info: MetricInfo, values: dict[tuple[str, ...], float]) -> Metric:
    family = GaugeMetricFamily(info.name, info.help, labels=list(info.labels))
    for labels, value in values.items():
        family.add_metric(list(labels), value)
    return family
