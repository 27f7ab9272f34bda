"""Threads, a fair lock, and the processor and memory that rare large work takes.

The threads are not an executor of the standard library: those refuse work as soon as the main thread has ended, while
other threads may still be serving.
"""

from __future__ import annotations

import ctypes
import queue
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import copy_context
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import finalize

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

_Result = TypeVar("_Result")
_Item = TypeVar("_Item")
_Task = tuple[Future[Any], Callable[[], Any]]


class Worker:
    """A thread that runs tasks one after the other, and ends with this object or with the process.

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
        self._tasks.put((future, partial(copy_context().run, task)))
        return future.result()


def start_thread(task: Callable[[], _Result], *, name: str) -> Future[_Result]:
    """Run the task in a thread of its own that does not keep the process alive; the context variables go along."""
    future: Future[_Result] = Future()
    work = partial(copy_context().run, task)
    threading.Thread(target=_fulfil, args=(future, work), name=name, daemon=True).start()
    return future


def run_parallel(work: Callable[[_Item], None], items: Iterable[_Item], *, threads: int) -> None:
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


@contextmanager
def spared_ctrl_c() -> Iterator[None]:
    """Start processes in the block that Ctrl-C does not reach: whoever started them stops them.

    A terminal sends it to all of them, and one that is just importing would print where it was.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # Imported here: hardly any command starts such processes.
    from multiprocessing import resource_tracker

    # It is started with the first process, and lets the signal through again.
    resource_tracker.ensure_running()
    # What comes meanwhile waits for the end of the block.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class FairLock:
    """A lock that is given in the order in which it was asked for; a context manager. Not for a process after a fork.

    With Python's own lock, a thread that releases it and asks again at once mostly gets it again, and others may wait
    for as long as that goes on.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Lock] = deque()

    @property
    def waiting(self) -> int:
        """The number of threads that wait."""
        return len(self._waiting)

    def acquire(self, timeout: float = -1) -> bool:
        """Take the lock; return False if it was not our turn within so many seconds, by default for ever."""
        with self._lock:
            if not self._taken:
                self._taken = True
                return True
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append(gate)
        # Opened by whoever is before us, who does not mark the lock as free meanwhile.
        if gate.acquire(timeout=timeout):
            return True
        with self._lock:
            if gate not in self._waiting:
                return True
            self._waiting.remove(gate)
            return False

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Give the lock to whoever has waited longest."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False


def single_threaded_blas() -> AbstractContextManager[object]:
    """Keep the linear algebra inside the block to one thread; libraries that are loaded inside it stay as they are.

    Threads that share a matrix product wait for each other by spinning. Training multiplies long and narrow matrices,
    where two threads gain next to nothing; and beside other work on the machine they lose much.
    """
    limits: AbstractContextManager[object] = _pools(len(sys.modules)).limit(limits=1, user_api="blas")
    return limits


@lru_cache(maxsize=1)
def _pools(modules: int) -> ThreadpoolController:
    """Look for the libraries that are loaded: 10 ms, and a training of a second asks thirty times.

    `modules` is how many there are; as long as there are no more, no library has come.
    """
    # Imported here: serving does without it.
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def trim_memory() -> None:
    """Return free memory to the system after rare large work, where the C library can (glibc), in milliseconds."""
    if trim := _trim():
        trim(0)


def _serve(tasks: queue.SimpleQueue[_Task | None]) -> None:
    while (given := tasks.get()) is not None:
        _fulfil(*given)
        del given  # or the last result would be kept until the next


def _fulfil(future: Future[_Result], task: Callable[[], _Result]) -> None:
    try:
        future.set_result(task())
    except BaseException as error:  # whatever it is, whoever waits has to know
        future.set_exception(error)


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):
        # macOS, musl and Windows have none.
        return None
    return found
