"""Rate limits: requests by client, counted in memory and so in each process of a server by itself."""

from __future__ import annotations

import math
import os
import threading
import time
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING

from rlhf_loop.errors import ConfigError

if TYPE_CHECKING:
    from limits.strategies import RateLimiter

#: The part of an IPv6 address that names a network: one household has all addresses within it.
_IPV6_BITS = 64


class Limiter:
    """A counter by name, in a sliding window. Safe to share between threads, and across a fork."""

    def __init__(self, rate_limit: str) -> None:
        """Read a limit such as "600 per minute", or several with semicolons; "0" means no limit.

        Raises:
            ConfigError: it is not a valid limit.
        """
        from limits import parse_many

        try:
            self._limits = [] if rate_limit.strip() == "0" else parse_many(rate_limit)
            usable = all(limit.amount > 0 for limit in self._limits)
        except ValueError:
            usable = False
        if not usable:
            raise ConfigError(
                f"RLHF_RATE_LIMIT={rate_limit!r} is not a valid limit. Write one as in '600 per minute' (second, "
                "minute, hour, day), several with semicolons between them, or 0 for none."
            )
        self._lock = threading.Lock()
        self._process: int | None = None
        self._counter: RateLimiter | None = None

    def hit(self, name: str) -> int:
        """Count a request; return 0, or if there were too many the seconds until the next one may come."""
        if not self._limits:
            return 0
        counter = self._counting()
        for limit in self._limits:
            if not counter.hit(limit, name):
                return max(1, math.ceil(counter.get_window_stats(limit, name).reset_time - time.time()))
        return 0

    def _counting(self) -> RateLimiter:
        with self._lock:
            if self._counter is None or self._process != os.getpid():
                from limits.storage import MemoryStorage
                from limits.strategies import SlidingWindowCounterRateLimiter

                # Two numbers for each name, forgotten when they are old. The moving window would keep each request's
                # time, and each name for ever.
                self._counter, self._process = SlidingWindowCounterRateLimiter(MemoryStorage()), os.getpid()
            return self._counter


def is_loopback(address: str | None) -> bool:
    """Tell whether the address is that of this machine to itself."""
    try:
        found = ip_address(address or "")
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return (mapped or found).is_loopback


def network(address: str | None) -> str:
    """Return what counts as one address: an IPv4 address, or the network of an IPv6 one."""
    try:
        found = ip_address((address or "").partition("%")[0])
    except ValueError:
        # A socket of the file system has none.
        return "unknown"
    if not isinstance(found, IPv6Address):
        return str(found)
    if found.ipv4_mapped:
        return str(found.ipv4_mapped)
    return str(ip_network((found, _IPV6_BITS), strict=False))
