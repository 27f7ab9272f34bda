"""Threads for work: one that does the work of all others in turn, several that share out one piece of work, and one for
what somebody may not want to wait for.

None is an executor of the standard library. Those refuse work as soon as the main thread has ended, while other
threads may still be serving.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeVar
from weakref import finalize

_Result = TypeVar("_Result")
_Item = TypeVar("_Item")
_Task = tuple[Future[Any], Callable[[], Any]]


class Worker:
    """Runs what it is given, one after the other, in a thread that ends with it or with the process.

    For work in Python, which cannot run in two threads at once. Threads that try interrupt each other in the middle,
    carry their data from core to core, and together do less than one alone.
    """

    def __init__(self, name: str) -> None:
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        threading.Thread(target=_serve, args=(self._tasks,), name=name, daemon=True).start()
        finalize(self, self._tasks.put, None)

    def run(self, task: Callable[[], _Result]) -> _Result:
        """Return what the task returns, or raise what it raises; the caller's context variables go along."""
        future: Future[_Result] = Future()
        context = copy_context()
        self._tasks.put((future, lambda: context.run(task)))
        return future.result()


def _serve(tasks: queue.SimpleQueue[_Task | None]) -> None:
    while (given := tasks.get()) is not None:
        future, task = given
        try:
            future.set_result(task())
        except BaseException as error:  # whatever it is, the caller has to know
            future.set_exception(error)
        del given, future, task  # or the last result would be kept until the next


def start(task: Callable[[], _Result], *, name: str) -> Future[_Result]:
    """Run the task in a thread of its own that does not keep the process alive; the context variables go along."""
    future: Future[_Result] = Future()
    context = copy_context()

    def run() -> None:
        try:
            future.set_result(context.run(task))
        except BaseException as error:  # whatever it is, whoever waits has to know
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def share_out(work: Callable[[_Item], None], items: Iterable[_Item], *, threads: int) -> None:
    """Do the work on each item, by this thread and others that are gone afterwards; the first error is raised.

    For work outside of Python, such as that of a numerical library.
    """
    waiting: queue.SimpleQueue[_Item] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    errors: list[BaseException] = []

    def take() -> None:
        with suppress(queue.Empty):
            while not errors:
                item = waiting.get_nowait()
                try:
                    work(item)
                except BaseException as error:  # an interrupt, too, must stop the others
                    errors.append(error)

    helpers = [threading.Thread(target=take) for _ in range(threads - 1)]
    started = []
    for helper in helpers:
        # At the very end of a process no thread can be started any more; then this one does it all.
        with suppress(RuntimeError):
            helper.start()
            started.append(helper)
    take()
    for helper in started:
        helper.join()
    if errors:
        raise errors[0]
