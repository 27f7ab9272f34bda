"""A lock that is given in the order in which it was asked for.

With Python's own, a thread that lets go and asks again at once mostly gets it again, and others may wait for as long as
that goes on.
"""

from __future__ import annotations

import threading
from collections import deque


class Turns:
    """One thread at a time, first come, first served; a context manager. Not for a process after a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Lock] = deque()

    @property
    def waiting(self) -> int:
        """How many threads wait."""
        return len(self._waiting)

    def __enter__(self) -> None:
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append(gate)
        # Opened by whoever is before us, who does not mark the lock as free meanwhile.
        gate.acquire()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False
