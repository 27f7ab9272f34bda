"""Traces by OpenTelemetry: where the time of a request went, sent to the collector that the OTEL_* variables name.

While traces are off, nothing of the library is imported, and a span costs one comparison. No attribute holds a text of
a user's, and neither does an error: it is named by its type.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from rlhf_loop.errors import ConfigError
from rlhf_loop.utils.concurrency import start_thread
from rlhf_loop.utils.extras import require
from rlhf_loop.utils.text import clause
from rlhf_loop.version import __version__

logger = logging.getLogger(__name__)

_EXTRA = "otel"
_EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
#: Variables that could ask for what there is not here, with what there is.
_ONLY = {
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
}
#: A collector that does not answer holds up the end of a process no longer than that.
_FLUSH_S = 5.0
_NOTHING = nullcontext()

_Attributes = Mapping[str, str | int | float | bool | tuple[str, ...]]
_tracing: _Library | None = None


def check() -> None:
    """Say before the fork what would keep the processes from sending traces.

    Raises:
        MissingExtraError: the extra [otel] is not installed.
        ConfigError: the OTEL_* variables ask for what there is not, or have no usable values.
    """
    for name, only in _ONLY.items():
        if os.environ.get(name, only).strip() != only:
            raise ConfigError(
                f"{name}={os.environ[name]!r} is not possible here: traces are sent as {only}. Set it so, or unset it."
            )
    try:
        for module in ("opentelemetry.sdk.trace.export", "opentelemetry.propagate"):
            require(module, _EXTRA)
        require(_EXPORTER, _EXTRA).OTLPSpanExporter().shutdown()
    except ValueError as error:
        raise ConfigError(
            f"An OTEL_* variable has no usable value: {clause(error)}. Correct it, or unset it."
        ) from error


def begin() -> None:
    """Send the traces of this process from now on. After a fork, as a thread of its own sends them.

    Raises:
        MissingExtraError: the extra [otel] is not installed.
    """
    sdk, export = (require(f"opentelemetry.sdk.{name}", _EXTRA) for name in ("trace", "trace.export"))
    resources = require("opentelemetry.sdk.resources", _EXTRA)
    ours = resources.Resource.create({"service.name": "rlhf-loop", "service.version": __version__})
    # What the variables name comes before our own names.
    named = ours.merge(resources.OTELResourceDetector().detect())
    provider = sdk.TracerProvider(resource=named, shutdown_on_exit=False)
    provider.add_span_processor(export.BatchSpanProcessor(require(_EXPORTER, _EXTRA).OTLPSpanExporter()))
    use(provider)


def use(provider: Any) -> None:
    """Give spans to a provider of the library's from now on."""
    global _tracing  # one place a process to send to is the point
    api, propagate = (require(f"opentelemetry.{name}", _EXTRA) for name in ("trace", "propagate"))
    _tracing = _Library(api, propagate, provider, provider.get_tracer("rlhf_loop", __version__))


def end() -> None:
    """Send what is left, within a few seconds, and no more after that."""
    global _tracing
    if _tracing is None:
        return
    provider, _tracing = _tracing.provider, None
    if not wait([start_thread(provider.shutdown, name="rlhf-traces")], timeout=_FLUSH_S).done:
        logger.warning("The last traces may be lost: the collector did not take them within %g s.", _FLUSH_S)


def span(name: str, attributes: _Attributes | None = None) -> AbstractContextManager[None]:
    """Make a span of the block, below the one that it stands in."""
    return _NOTHING if _tracing is None else _span(_tracing, name, attributes or {})


def request_span(name: str, headers: Mapping[str, str]) -> AbstractContextManager[None]:
    """Make a span of the block that answers a request, below the caller's if the headers name one (W3C traceparent)."""
    return _NOTHING if _tracing is None else _span(_tracing, name, {}, headers=headers)


def note(attributes: _Attributes, *, name: str | None = None, failed: bool = False) -> None:
    """Add attributes to the span that the caller stands in, if there is one."""
    if _tracing is not None:
        current = _tracing.api.get_current_span()
        current.set_attributes(attributes)
        if name is not None:
            current.update_name(name)
        if failed:
            current.set_status(_tracing.api.StatusCode.ERROR)


def trace_id() -> str:
    """Return the id of the trace that the caller stands in, empty if there is none."""
    if _tracing is None:
        return ""
    context = _tracing.api.get_current_span().get_span_context()
    return format(context.trace_id, "032x") if context.is_valid else ""


@contextmanager
def stage(timings: dict[str, float], name: str) -> Iterator[None]:
    """Note how many milliseconds a stage of an answer takes, and make a span of it."""
    started = perf_counter()
    try:
        with span("answer" if name == "total" else name):
            yield
    finally:
        timings[name] = 1000 * (perf_counter() - started)


@dataclass(frozen=True, slots=True)
class _Library:
    """The library's parts, which have no types here: it may not be installed."""

    api: Any
    propagate: Any
    provider: Any
    tracer: Any


@contextmanager
def _span(
    tracing: _Library, name: str, attributes: _Attributes, *, headers: Mapping[str, str] | None = None
) -> Iterator[None]:
    of_a_request = headers is not None
    with tracing.tracer.start_as_current_span(
        name,
        context=tracing.propagate.extract(headers) if of_a_request else None,
        kind=tracing.api.SpanKind.SERVER if of_a_request else tracing.api.SpanKind.INTERNAL,
        attributes=attributes,
        # The library would take over the error's words, and where in the code it was.
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield
        except BaseException as error:
            current.set_status(tracing.api.StatusCode.ERROR, type(error).__name__)
            raise
