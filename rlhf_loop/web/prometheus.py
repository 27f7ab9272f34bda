"""`/metrics` for Prometheus: what all processes of the server have counted, and what the database says now."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from time import monotonic
from typing import Generic, TypeVar

from flask import Blueprint, Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.engine import Engine

from rlhf_loop.accounts import tokens
from rlhf_loop.answering import AnswerService
from rlhf_loop.config import Settings
from rlhf_loop.errors import DatabaseError, RlhfLoopError
from rlhf_loop.monitoring.gauges import Census, answers, census
from rlhf_loop.store.engine import hurried
from rlhf_loop.version import __version__
from rlhf_loop.web import catalogue
from rlhf_loop.web.catalogue import MetricInfo
from rlhf_loop.web.guard import Guard
from rlhf_loop.web.instruments import Instruments
from rlhf_loop.web.process import Database

logger = logging.getLogger(__name__)

_Found = TypeVar("_Found")

#: Seconds for which what the database said is good, or that it did not answer; to count answers takes it longer.
_GOOD_S, _ANSWERS_GOOD_S = 15.0, 60.0
#: Seconds that a look waits for a lock of others.
_PATIENCE_S = 1.0


def add_routes(
    web: Blueprint, settings: Settings, service: AnswerService, database: Database, guard: Guard, counts: Instruments
) -> None:
    """Give the blueprint the route."""
    scrape = _Scrape(counts, service, database)

    @web.get("/metrics")
    def metrics() -> Response:
        if not settings.metrics_public and not guard.from_this_machine():
            guard.bearer(tokens.METRICS)
        return Response(generate_latest(scrape), content_type=CONTENT_TYPE_PLAIN_0_0_4)


class _Scrape(Collector):
    """All metrics of the catalogue that can be had now."""

    def __init__(self, counts: Instruments, service: AnswerService, database: Database) -> None:
        self._counts, self._service, self._database = counts, service, database
        self._census = _Kept(lambda: census(self._engine()), _GOOD_S)
        self._answers = _Kept(lambda: answers(self._engine()), _ANSWERS_GOOD_S)

    def collect(self) -> Iterator[Metric]:
        try:
            self._counts.serves(self._service.serving())
        except RlhfLoopError as error:
            logger.warning("Which model is served cannot be told: %s", error)
        yield from self._counts.collect()
        yield _gauge(catalogue.BUILD, {(__version__,): 1})
        yield from self._outbox()
        yield from self._of_the_database()

    def _outbox(self) -> Iterator[Metric]:
        try:
            waiting, refused = self._service.waiting()
        except RlhfLoopError as error:
            logger.warning("The outbox cannot be counted: %s", error)
            return
        yield _gauge(catalogue.OUTBOX_WAITING, {(): waiting})
        yield _gauge(catalogue.OUTBOX_REFUSED, {(): refused})

    def _of_the_database(self) -> Iterator[Metric]:
        try:
            found, counted = self._census.get(), self._answers.get()
        except DatabaseError as error:
            logger.warning("Metrics of the database are left out: %s", error)
            self._database.doubt()
            yield _gauge(catalogue.DATABASE_UP, {(): 0})
            return
        yield _gauge(catalogue.DATABASE_UP, {(): 1})
        yield _gauge(catalogue.INTERACTIONS, {("rated",): counted.rated, ("waiting",): counted.waiting})
        yield from _of_the_loop(found)

    def _engine(self) -> Engine:
        return hurried(self._database.engine(), _PATIENCE_S)


class _Kept(Generic[_Found]):
    """What is asked for once in so many seconds, and no more often where it fails. Safe to share between threads."""

    def __init__(self, ask: Callable[[], _Found], good_s: float) -> None:
        self._ask, self._good_s = ask, good_s
        self._lock = threading.Lock()
        self._until = -1.0
        self._found: _Found | None = None
        self._error: DatabaseError | None = None

    def get(self) -> _Found:
        """Return it.

        Raises:
            DatabaseError: the database did not answer, now or a moment ago.
        """
        with self._lock:
            if monotonic() >= self._until:
                self._found, self._error = None, None
                try:
                    self._found = self._ask()
                    self._until = monotonic() + self._good_s
                except DatabaseError as error:
                    self._error = error
                    self._until = monotonic() + _GOOD_S
            if self._error is not None:
                raise self._error
            assert self._found is not None
            return self._found


def _of_the_loop(found: Census) -> Iterator[Metric]:
    yield _gauge(catalogue.ALARMS, {(str(kind),): count for kind, count in found.alarms.items()})
    ended = CounterMetricFamily(
        catalogue.TRAININGS.name, catalogue.TRAININGS.help, labels=list(catalogue.TRAININGS.labels)
    )
    for status, count in found.trainings.items():
        if status != "running":
            ended.add_metric([status], count)
    yield ended
    yield _gauge(catalogue.TRAINING, {(): found.trainings["running"]})
    if found.live is not None:
        yield _gauge(catalogue.LIVE_MODEL, {(found.live,): 1})
    for info, value in (
        (catalogue.PROMOTED, found.promoted_at),
        (catalogue.ACCURACY, found.accuracy),
        (catalogue.AUC, found.auc),
    ):
        if value is not None:
            yield _gauge(info, {(): value.timestamp() if isinstance(value, datetime) else value})


def _gauge(info: MetricInfo, values: dict[tuple[str, ...], float]) -> Metric:
    family = GaugeMetricFamily(info.name, info.help, labels=list(info.labels))
    for labels, value in values.items():
        family.add_metric(list(labels), value)
    return family
