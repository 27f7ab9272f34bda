"""Loading what answers need before the first question comes: once a process, in a thread of its own."""

from __future__ import annotations

import logging
import os
import threading
from time import perf_counter

from rlhf_loop.answering import AnswerService

logger = logging.getLogger(__name__)


class WarmUp:
    """Loads the encoder, the model and the index of a service, while the process already answers."""

    def __init__(self, service: AnswerService) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._process: int | None = None

    def start(self) -> None:
        """Begin, unless this process has begun already."""
        with self._lock:
            # By process: a fork inherits the note that the parent began, but not the thread.
            if self._process == os.getpid():
                return
            self._process = os.getpid()
        threading.Thread(target=self._run, name="rlhf-warm-up", daemon=True).start()

    def _run(self) -> None:
        started = perf_counter()
        try:
            self._service.warm_up()
        except Exception:
            # Not fatal: each answer tries again by itself and says what is missing.
            logger.exception("Warming up failed; the first answers will try again.")
            return
        readiness = self._service.readiness()
        logger.info(
            "Warm after %.1f s" if readiness.ready else "Warmed up for %.1f s, but not all is ready",
            perf_counter() - started,
            extra={"ready": readiness.ready, "checks": dict(readiness.checks)},
        )
