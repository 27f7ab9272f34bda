"""The figures of the dashboard as this process computed them lately, so that nobody waits for the slow ones."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import Condition, Thread
from time import monotonic

from rlhf_loop.monitoring.figures.figure import Figure

logger = logging.getLogger(__name__)

_MAX_AGE_S = 60.0
#: A figure stays for so many times as long as it takes to compute: a slow one is not to keep a core busy.
_TIMES_ITS_WORK = 20
_THREADS = 2


@dataclass(frozen=True, slots=True)
class Shown:
    """A figure, or None: it `failed`, or is still being computed."""

    figure: Figure | None
    failed: bool = False


@dataclass(slots=True)
class _Entry:
    shown: Shown = Shown(None)
    fresh_until: float = 0.0
    wanted: bool = False


class Board:
    """Computes figures by name in threads of its own, each once however many ask; they end when nothing is left."""

    def __init__(
        self,
        compute: Callable[[str], Figure],
        *,
        max_age_s: float = _MAX_AGE_S,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._compute, self._max_age_s, self._clock = compute, max_age_s, clock
        self._changed = Condition()
        self._entries: dict[str, _Entry] = {}
        self._waiting: deque[str] = deque()
        self._threads = 0

    def get(self, names: Iterable[str], *, wait_s: float) -> dict[str, Shown]:
        """Return the figures, after at most `wait_s` seconds: those that are not ready as they were before, if ever."""
        names = list(names)
        with self._changed:
            for name in names:
                self._ask(name)
            self._changed.wait_for(lambda: not any(self._entries[name].wanted for name in names), timeout=wait_s)
            return {name: self._entries[name].shown for name in names}

    def _ask(self, name: str) -> None:
        entry = self._entries.setdefault(name, _Entry())
        if entry.wanted or self._clock() < entry.fresh_until:
            return
        entry.wanted = True
        self._waiting.append(name)
        if self._threads < _THREADS:
            self._threads += 1
            Thread(target=self._work, name="dashboard", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._threads -= 1
                    return
                name = self._waiting.popleft()
            began = self._clock()
            shown = self._computed(name)
            now = self._clock()
            with self._changed:
                entry = self._entries[name]
                entry.shown, entry.wanted = shown, False
                entry.fresh_until = now + max(self._max_age_s, _TIMES_ITS_WORK * (now - began))
                self._changed.notify_all()

    def _computed(self, name: str) -> Shown:
        try:
            return Shown(self._compute(name))
        except Exception:
            # One figure that cannot be computed does not take the others with it; the page says that it failed.
            logger.exception("The figure %s of the dashboard cannot be computed.", name)
            return Shown(None, failed=True)
