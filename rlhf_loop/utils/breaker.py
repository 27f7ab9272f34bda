"""Circuit breaker: pauses what failed several times in a row, so that nobody waits for it in vain."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

#: Failures in a row before the first pause.
FAILURES = 3
#: Seconds of the first pause; each further one is twice as long, up to the longest.
_FIRST_REST_S = 10.0
_LONGEST_REST_S = 300.0
#: Seconds of a pause that somebody may ask for.
_LONGEST_WISH_S = 3600.0


class Breaker:
    """A circuit breaker (Nygard 2018, "Release It!"), which counts failures in a row. Safe to share between threads.

    After a pause one caller may try, while the others wait until that try has ended.
    """

    def __init__(self, *, failures: int = FAILURES, clock: Callable[[], float] = monotonic) -> None:
        self._failures = failures
        self._clock = clock
        self._lock = threading.Lock()
        self._in_a_row = self._rests = 0
        self._until = 0.0

    def rest_s(self) -> float:
        """Return for how many more seconds it is paused; 0 if it is not."""
        with self._lock:
            return max(0.0, self._until - self._clock())

    def may_try(self) -> bool:
        """Tell whether the caller may try now. Who may then says how it went, by `succeeded` or `failed`."""
        with self._lock:
            now = self._clock()
            if now < self._until:
                return False
            if self._rests:
                # The one that tries after a pause; the others wait for its result at most as long as a pause.
                self._until = now + _FIRST_REST_S
            return True

    def succeeded(self) -> None:
        """Forget all failures."""
        with self._lock:
            self._in_a_row = self._rests = 0
            self._until = 0.0

    def failed(self, *, retry_after_s: float | None = None) -> None:
        """Count a failure. One that says when to come back is believed, and paused until then."""
        with self._lock:
            if retry_after_s:
                rest = min(retry_after_s, _LONGEST_WISH_S)
            else:
                self._in_a_row += 1
                if self._in_a_row < self._failures and not self._rests:
                    return
                rest = min(_FIRST_REST_S * 2**self._rests, _LONGEST_REST_S)
                self._rests = min(self._rests + 1, 10)
            self._until = max(self._until, self._clock() + rest)
