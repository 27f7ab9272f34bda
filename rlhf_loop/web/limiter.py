"""The limit of requests: counted by name in a sliding window, by all processes of a server together."""

from __future__ import annotations

import logging
import math
import os
import sqlite3
import threading
import time
from ipaddress import IPv6Address, ip_network
from pathlib import Path

from rlhf_loop.errors import ConfigError
from rlhf_loop.utils.addresses import parsed

logger = logging.getLogger(__name__)

#: So long a request waits for its turn to be counted, and so long the others of its process count alone after that.
_COUNTING_S, _ALONE_S = 2.0, 5.0
_MOMENT_S = 0.001
#: The part of an IPv6 address that names a network: one household has all addresses within it.
_IPV6_BITS = 64


class Limiter:
    """A counter by name, in a sliding window. Safe to share between threads, and across a fork.

    All processes that are given the same file count together; without one, this process counts alone.
    """

    def __init__(self, rate_limit: str, *, file: Path | None = None) -> None:
        """Read a limit such as "600 per minute", or several with semicolons; "0" means no limit.

        Raises:
            ConfigError: it is not a valid limit.
        """
        from limits import parse_many

        try:
            limits = [] if rate_limit.strip() == "0" else parse_many(rate_limit)
            usable = all(limit.amount > 0 for limit in limits)
        except ValueError:
            usable = False
        if not usable:
            raise ConfigError(
                f"RLHF_RATE_LIMIT={rate_limit!r} is not a valid limit. Write one as in '600 per minute' (second, "
                "minute, hour, day), several with semicolons between them, or 0 for none."
            )
        self._limits = [(limit.amount, limit.get_expiry()) for limit in limits]
        self._file = file
        self._lock = threading.Lock()
        self._process: int | None = None
        self._opened: dict[Path | str, sqlite3.Connection] = {}
        self._alone_until = -math.inf
        self._warned = False

    def hit(self, name: str) -> int:
        """Count a request; return 0, or if there were too many the seconds until the next one may come."""
        if not self._limits:
            return 0
        with self._lock:
            if self._file is not None and time.monotonic() >= self._alone_until:
                try:
                    wait = self._count(self._file, name, time.time())
                    self._warned = False
                    return wait
                except sqlite3.Error as error:
                    # Who may ask must not depend on a file of counts: for a while, this process counts alone.
                    if not self._warned:
                        logger.warning("The requests of all processes cannot be counted together now: %s", error)
                    self._warned, self._alone_until = True, time.monotonic() + _ALONE_S
                    if (broken := self._opened.pop(self._file, None)) is not None:
                        broken.close()
            return self._count(":memory:", name, time.time())

    def _count(self, place: Path | str, name: str, now: float) -> int:
        counts, wait, new = self._open(place), 0.0, []
        windows = [(most, period, *divmod(now, period)) for most, period in self._limits]
        counts.execute("BEGIN IMMEDIATE")
        with counts:
            for most, period, window, into in windows:
                found = dict(
                    counts.execute(
                        "SELECT began, number FROM counts WHERE period = ? AND began IN (?, ?) AND name = ?",
                        (period, window - 1, window, name),
                    ).fetchall()
                )
                wait = max(wait, _wait(found.get(window - 1, 0), found.get(window, 0), most, into, period))
                if window not in found:
                    new.append((period, window - 1))
            if not wait:
                counts.executemany(
                    "INSERT INTO counts VALUES (?, ?, ?, 1) ON CONFLICT DO UPDATE SET number = number + 1",
                    [(period, window, name) for _, period, window, _ in windows],
                )
                counts.executemany("DELETE FROM counts WHERE period = ? AND began < ?", new)
        return math.ceil(wait)

    def _open(self, place: Path | str) -> sqlite3.Connection:
        if self._process != os.getpid():
            self._opened, self._process = {}, os.getpid()
        if place not in self._opened:
            counts = self._opened[place] = sqlite3.connect(
                place, timeout=_COUNTING_S, isolation_level=None, check_same_thread=False
            )
            # Counts are gone with the server anyway: nothing waits for the disk.
            counts.execute("PRAGMA journal_mode=WAL")
            counts.execute("PRAGMA synchronous=OFF")
            counts.execute(
                "CREATE TABLE IF NOT EXISTS counts (period INTEGER, began REAL, name TEXT, number INTEGER, "
                "PRIMARY KEY (period, began, name)) WITHOUT ROWID"
            )
        return self._opened[place]


def _wait(before: int, present: int, most: int, into: float, period: float) -> float:
    """Return the seconds until one more request fits, by the requests of the last window and of the present one.

    Of the last window counts the part that lies within one period before now, in whole requests: with parts of one, a
    limit of one a minute would let one through in two.
    """
    if math.floor(before * (1 - into / period)) + present + 1 <= most:
        return 0
    if present + 1 <= most:
        wait = period * (1 - (most - present) / before) - into
    else:
        # The present window has to become the last one, and a part of it to be over.
        wait = period - into + period * (1 - most / present)
    # It fits once that time is over, and not in the very moment.
    return max(wait, _MOMENT_S)


def network(address: str | None) -> str:
    """Return what counts as one address: an IPv4 address, or the network of an IPv6 one."""
    found = parsed(address)
    if found is None:
        # A socket of the file system has none.
        return "unknown"
    return str(ip_network((found, _IPV6_BITS), strict=False)) if isinstance(found, IPv6Address) else str(found)
