"""The stages of an answer: how long each takes, and its span in the trace of the request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from rlhf_loop.utils import tracing


@contextmanager
def stage(timings: dict[str, float], name: str) -> Iterator[None]:
    """Note how many milliseconds the block takes."""
    started = perf_counter()
    try:
        with tracing.span("answer" if name == "total" else name):
            yield
    finally:
        timings[name] = 1000 * (perf_counter() - started)
