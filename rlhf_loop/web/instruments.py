"""What a process counts of its own work. The processes of a server count together, in files that each can add up.

The library is told of these files by PROMETHEUS_MULTIPROC_DIR; without it, as in an application with one process, it
counts in memory. The registry is our own, so that an application that embeds the blueprint keeps its metrics apart.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter

from flask import Request, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

from rlhf_loop.domain import Answer, ReviewerRole
from rlhf_loop.web import catalogue, logs
from rlhf_loop.web.catalogue import COUNTED, MetricInfo

#: Of a route or method that nobody has planned: what a client makes up must not become a name.
OTHER = "other"
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
#: What one of these names is part of is one of ours.
_OURS = frozenset(info.name.removesuffix("_total") for info in COUNTED)


class Instruments:
    """Counts requests, and what they were about. Safe to share between threads; one for each process."""

    def __init__(self) -> None:
        if _FOLDER in os.environ and not getattr(values.ValueClass, "_multiprocess", False):
            # Somebody's source may have imported the library before it was told of the files.
            values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._requests = self._counter(catalogue.HTTP_REQUESTS)
        self._request_seconds = self._histogram(catalogue.HTTP_SECONDS)
        self._answers = self._counter(catalogue.ANSWERS)
        self._stage_seconds = self._histogram(catalogue.STAGE_SECONDS)
        self._source_failures = self._counter(catalogue.SOURCE_FAILURES)
        self._degraded = self._counter(catalogue.DEGRADED)
        self._top_score = self._histogram(catalogue.TOP_SCORE)
        self._ratings = self._counter(catalogue.RATINGS)
        # Of processes that died, the library forgets gauges whose mode begins with "live".
        workers, model = catalogue.WORKERS, catalogue.MODEL
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
            if response.status_code < 400:
                self._count_work(notes.answer, notes.ratings)
        return response

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
                if not sample.name.endswith("_created") and (metric.name != catalogue.MODEL.name or sample.value)
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
