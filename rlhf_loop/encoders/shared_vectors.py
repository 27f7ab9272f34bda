"""Shared vectors: the second level of the vector cache, in a Redis or Valkey server that several machines share.

It saves computing and decides nothing: where it is absent, slow, full or wrong, texts are embedded as without it.
"""

from __future__ import annotations

import atexit
import hashlib
import hmac
import logging
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_loop.config import Settings
from rlhf_loop.encoders.runtime import DIMENSION, Vectors
from rlhf_loop.errors import ConfigError
from rlhf_loop.utils.breaker import Breaker
from rlhf_loop.utils.concurrency import start_thread
from rlhf_loop.utils.extras import require
from rlhf_loop.utils.lru import LRUCache

if TYPE_CHECKING:
    from redis.connection import Connection, ConnectionPool

logger = logging.getLogger(__name__)

#: How names begin in the server, so that its rules of access can be limited to them.
PREFIX = "rlhf-loop:vectors:"
#: Texts that one lookup asks for, and texts for which it has its time once more: to embed that many takes far longer.
_TEXTS, _TEXTS_A_TIMEOUT = 1024, 128
#: Seconds for which what was absent is not asked for again: a ranking looks its texts up in several steps, and what was
#: absent is embedded here meanwhile.
_ABSENT_S = 60.0
_ABSENT_BYTES = 4_000_000
#: Vectors that wait to be written; more are dropped. And how many go at a time.
_WAITING_BYTES, _WRITTEN = 64_000_000, 256
#: Seconds that the server has to take them, for which nobody waits; and for which the end of a program waits for all.
_WRITING_S, _SETTLING_S = 2.0, 2.0
_DIGEST = 16


class _Side:
    """Reading or writing: its breaker, and whether the log has said that it does not work."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.breaker = Breaker(clock=clock)
        self.warned = False


class SharedVectors:
    """Keys (bytes) -> matrices of shape (n, dimension), float32. Safe to share between threads and across a fork.

    A lookup has `timeout_s`, whatever the server does; after several that failed in a row lookups are paused. A thread
    writes, and the server keeps it for `days`. With a `secret`, values that somebody wrote who does not
    have it are refused; without one a checksum finds damage only.

    Raises:
        ConfigError: the URL is not one of a Redis or Valkey server.
        MissingExtraError: the client is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: str = "",
        timeout_s: float = 0.05,
        days: float = 30.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        require("redis", "redis")
        self._reading = _pool(url, timeout_s)
        self._writing = _pool(url, _WRITING_S)
        self._secret = hashlib.blake2b(secret.encode(), person=b"rlhf vectors").digest()
        self._timeout_s = timeout_s
        self._keep_s = max(1, round(days * 86400))
        self._clock = clock
        self._begin()

    def _begin(self) -> None:
        """Begin as a process does, without the locks and threads of the one before."""
        self._reads, self._writes = _Side(self._clock), _Side(self._clock)
        self._reason = ""
        self._absent: LRUCache[float] = LRUCache(max_bytes=_ABSENT_BYTES)
        self._counts: Counter[str] = Counter()
        self._lock = threading.Condition()
        self._waiting: deque[tuple[bytes, Vectors]] = deque()
        self._bytes = 0
        self._writer: threading.Thread | None = None
        self._process = os.getpid()

    def get(self, keys: Sequence[bytes], *, dimension: int = DIMENSION) -> dict[bytes, Vectors]:
        """Return the matrices, read-only, of those keys that are known there and are what was put."""
        self._notice_fork()
        lately = self._clock() - _ABSENT_S
        wanted = [key for key in keys if (self._absent.get(key) or lately) <= lately]
        found: dict[bytes, Vectors] = {}
        for start in range(0, len(wanted), _TEXTS):
            part = wanted[start : start + _TEXTS]
            values = self._looked_up(part)
            if values is None:
                break
            for key, value in zip(part, values, strict=True):
                if value is None:
                    self._absent.put(key, self._clock(), 8)
                elif (matrix := self._checked(key, value, dimension)) is not None:
                    found[key] = matrix
            known = sum(value is not None for value in values)
            there = sum(key in found for key in part)
            self._count(found=there, absent=len(part) - known, refused=known - there)
        return found

    def put(self, entries: Mapping[bytes, Vectors]) -> None:
        """Have the matrices written, unless too many wait already. Nobody waits for it."""
        self._notice_fork()
        with self._lock:
            for key, matrix in entries.items():
                if self._bytes + matrix.nbytes > _WAITING_BYTES:
                    self._count(dropped=1)
                    continue
                self._waiting.append((key, matrix))
                self._bytes += matrix.nbytes
            if self._writer is None and self._waiting:
                self._writer = threading.Thread(target=self._write, name="rlhf-shared-vectors", daemon=True)
                self._writer.start()
                # A program may end right behind what it computed.
                atexit.register(self.settle)
            self._lock.notify_all()

    def settle(self, *, within_s: float = _SETTLING_S) -> None:
        """Wait until what was put is written or dropped, at most so long."""
        self._notice_fork()
        with self._lock:
            self._lock.wait_for(lambda: not self._bytes, timeout=within_s)

    def state(self) -> str:
        """Return what is wrong with it, without names of hosts; empty if nothing is."""
        troubles = []
        for side, what in ((self._reads, "lookups"), (self._writes, "writing")):
            if rest := side.breaker.rest_s():
                troubles.append(f"{what} paused for {rest:.0f} s after repeated failures ({self._reason})")
            elif side.warned:
                troubles.append(f"{what} failed lately ({self._reason})")
        return "; ".join(troubles)

    def take_counts(self) -> Mapping[str, int]:
        """Return how many texts were found, absent, refused, failed or paused, and how many vectors written or dropped,
        since this was last asked.
        """
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return counts

    def check(self) -> None:
        """Ask the server whether it is there and lets us in; of the doctor.

        Raises:
            Exception: whatever is wrong, in the client's words.
        """
        future = start_thread(lambda: self._asked([b"check"], [], threading.Event()), name="rlhf-shared-vectors-check")
        future.result(timeout=_WRITING_S)

    def _count(self, **results: int) -> None:
        with self._lock:
            self._counts.update({result: count for result, count in results.items() if count})

    def _looked_up(self, keys: Sequence[bytes]) -> list[Any] | None:
        """Return what the server has of these keys, None where it could not be asked."""
        if not self._reads.breaker.may_try():
            self._count(paused=len(keys))
            return None
        within_s = self._timeout_s * (1 + len(keys) / _TEXTS_A_TIMEOUT)
        used: list[Connection] = []
        late = threading.Event()
        # In a thread of its own: a name that is not resolved, or an answer byte by byte, knows no timeout.
        future: Future[list[Any]] = start_thread(lambda: self._asked(keys, used, late), name="rlhf-shared-vectors-get")
        try:
            values = future.result(timeout=within_s)
            if len(values) != len(keys):
                raise ValueError(f"{len(values)} values for {len(keys)} keys")
        except TimeoutError:
            self._failed(self._reads, f"no answer within {1000 * within_s:.0f} ms")
            late.set()
            for connection in used:
                # Ends the thread, if it reads still.
                with suppress(Exception):
                    connection.disconnect()  # type: ignore[no-untyped-call]
        except Exception as error:
            self._failed(self._reads, _in_words(error))
        else:
            self._succeeded(self._reads)
            return values
        self._count(failed=len(keys))
        return None

    def _asked(self, keys: Sequence[bytes], used: list[Connection], late: threading.Event) -> list[Any]:
        connection = self._reading.get_connection()
        used.append(connection)
        try:
            if late.is_set():  # while it connected, and nobody waits any more
                raise TimeoutError
            connection.send_command("MGET", *map(self._name, keys))  # type: ignore[no-untyped-call]
            found: list[Any] = connection.read_response()
            return found
        except BaseException:
            # What is still to come would be taken for the answer to the next question.
            connection.disconnect()  # type: ignore[no-untyped-call]
            raise
        finally:
            self._reading.release(connection)

    def _write(self) -> None:
        """Write what waits, for as long as the process lives."""
        from redis import Redis

        client = Redis(connection_pool=self._writing)
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._waiting)
                batch = [self._waiting.popleft() for _ in range(min(_WRITTEN, len(self._waiting)))]
            if self._writes.breaker.may_try():
                try:
                    with client.pipeline(transaction=False) as pipeline:
                        for key, matrix in batch:
                            pipeline.set(self._name(key), self._packed(key, matrix), ex=self._keep_s)
                        pipeline.execute()
                except Exception as error:
                    self._failed(self._writes, _in_words(error))
                    self._count(dropped=len(batch))
                else:
                    self._succeeded(self._writes)
                    self._count(written=len(batch))
            else:
                self._count(dropped=len(batch))
            with self._lock:
                self._bytes -= sum(matrix.nbytes for _, matrix in batch)
                self._lock.notify_all()

    def _failed(self, side: _Side, reason: str) -> None:
        self._reason = reason
        side.breaker.failed()
        if side.breaker.rest_s() and not (self._reads.warned or self._writes.warned):
            side.warned = True
            logger.warning(
                "The shared vector cache (RLHF_CACHE_URL) cannot be used: %s. Texts are embedded here meanwhile, and "
                "it is tried again now and then; rlhf-loop doctor asks it",
                reason,
            )

    def _succeeded(self, side: _Side) -> None:
        side.breaker.succeeded()
        if side.warned:
            side.warned = False
            logger.info("The shared vector cache can be used again")

    def _name(self, key: bytes) -> str:
        # Keyed, so that servers with other secrets do not meet, and nobody can look whether a text is known.
        return PREFIX + hashlib.blake2b(key, key=self._secret, digest_size=_DIGEST).hexdigest()

    def _packed(self, key: bytes, matrix: Vectors) -> bytes:
        data = np.ascontiguousarray(matrix, dtype="<f4").tobytes()
        return self._sum(key, data) + data

    def _checked(self, key: bytes, value: object, dimension: int) -> Vectors | None:
        if not isinstance(value, bytes) or len(value) <= _DIGEST or (len(value) - _DIGEST) % (4 * dimension):
            return None
        if not hmac.compare_digest(self._sum(key, value[_DIGEST:]), value[:_DIGEST]):
            return None
        matrix = np.frombuffer(value, dtype="<f4", offset=_DIGEST).reshape(-1, dimension)
        return matrix if np.isfinite(matrix).all() else None

    def _sum(self, key: bytes, data: bytes) -> bytes:
        # Of the key, too: nobody can put the vectors of one text in place of another's.
        return hashlib.blake2b(key + data, key=self._secret, digest_size=_DIGEST).digest()

    def _notice_fork(self) -> None:
        if self._process != os.getpid():
            self._begin()


def open_shared(settings: Settings) -> SharedVectors | None:
    """Return the shared cache that the settings name, None if they name none; it is not asked yet.

    Raises:
        ConfigError, MissingExtraError: see `SharedVectors`.
    """
    if not settings.cache_url:
        return None
    return SharedVectors(
        settings.cache_url,
        secret=settings.lasting_key,
        timeout_s=settings.cache_timeout_ms / 1000,
        days=settings.cache_days,
    )


def _pool(url: str, timeout_s: float) -> ConnectionPool:
    from redis.backoff import NoBackoff
    from redis.connection import ConnectionPool
    from redis.retry import Retry

    try:
        # Without a second try: what is not there at once is computed.
        pool = ConnectionPool.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            decode_responses=False,
        )
        # Nothing is opened yet; but an option that there is not shows only here.
        pool.make_connection()
    except Exception as error:
        # Without the URL, which may have a password.
        raise ConfigError(
            f"RLHF_CACHE_URL is not the URL of a Redis or Valkey server ({error}). Give it as in redis://HOST:6379/0, "
            "rediss://USER:PASSWORD@HOST:6379/0 (TLS) or unix:///PATH; Sentinel and Cluster are not supported."
        ) from error
    return pool


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": .")
